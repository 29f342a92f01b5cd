// Inter-frame attention on raw memory, one thread at a time. The equations are in functional.py.
#pragma once

#include <cstdint>

namespace mmsifa {

struct bfloat16 {
  uint16_t bits;
};

// Pixels of a frame that are worked on together.
constexpr int64_t kBlock = 16;

struct Problem {
  int64_t frames, height, width, channels;  // frames of all clips together
  int64_t clip_length;                      // frames of one clip
  int64_t kernel_size, dilation, heads;
  double scale;
  bool softmax;

  int64_t taps() const { return kernel_size * kernel_size; }
  int64_t pixels() const { return height * width; }
  int64_t blocks() const { return frames * blocks_per_frame(); }
  int64_t blocks_per_frame() const { return (pixels() + kBlock - 1) / kBlock; }
};

// Strides count elements. The channels of all but the offset are next to each other.
template <typename scalar>
struct Input {
  const scalar* data;
  int64_t clip_stride, frame_stride, pixel_stride, channel_stride;
};

template <typename scalar>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <typename scalar>
using accumulator_t = typename accumulator<scalar>::type;

template <typename scalar>
struct Inputs {
  Input<scalar> query, value, d_out;  // d_out only in the backward pass
  Input<accumulator_t<scalar>> offset;
};

// Each function works on the blocks or channels [begin, end). Results have channels last in memory.

// out: (frames, pixels, channels).
template <typename scalar>
void forward(const Problem&, const Inputs<scalar>&, scalar* out, int64_t begin, int64_t end);

// d_query: (frames, pixels, channels); d_offset: (frames, pixels, 2 * taps); attention: (frames,
// pixels, heads, taps, 2), the weight of a tap and its score's gradient, for backward_value.
template <typename scalar>
void backward(const Problem&, const Inputs<scalar>&, scalar* d_query,
              accumulator_t<scalar>* d_offset, accumulator_t<scalar>* attention, int64_t begin,
              int64_t end);

// d_value: (frames, pixels, channels), of one frame and the channels [begin, end). It comes from
// this frame alone and is added up in the order of the pixels, so it is the same for any number of
// threads and any partition of the channels.
template <typename scalar>
void backward_value(const Problem&, const Inputs<scalar>&, const accumulator_t<scalar>* attention,
                    scalar* d_value, int64_t frame, int64_t begin, int64_t end);

}  // namespace mmsifa
