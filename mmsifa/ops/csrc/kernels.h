// Inter-frame attention on raw memory, one thread at a time. The equations are in functional.py.
#pragma once

#include <cstdint>

namespace mmsifa {

struct bfloat16 {
  uint16_t bits;
};

// Sizes of a call. Strides count elements; channels are next to each other.
struct Problem {
  int64_t frames, height, width, channels;  // frames of all clips together
  int64_t clip_length;                      // frames of one clip
  int64_t kernel_size, dilation, heads;
  double scale;
  bool softmax;

  int64_t taps() const { return kernel_size * kernel_size; }
  int64_t positions() const { return frames * height * width; }
};

template <typename scalar>
struct Input {
  const scalar* data;
  int64_t clip_stride, frame_stride, row_stride, column_stride, channel_stride;
};

template <typename scalar>
struct Inputs {
  Input<scalar> query, value, offset, d_out;  // d_out only in the backward pass
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

// Each function works on the range [begin, end) and has room for its intermediate results.

// out: (positions, channels). scratch: forward_scratch(problem) numbers.
template <typename scalar>
void forward(const Problem&, const Inputs<scalar>&, scalar* out, accumulator_t<scalar>* scratch,
             int64_t begin, int64_t end);
int64_t forward_scratch(const Problem&);

// d_query: (positions, channels); d_offset: (positions, 2 * taps); attention: (positions, heads,
// taps, 2), the weight of a tap and the gradient of its score, for backward_value.
template <typename scalar>
void backward(const Problem&, const Inputs<scalar>&, scalar* d_query, scalar* d_offset,
              accumulator_t<scalar>* attention, accumulator_t<scalar>* scratch, int64_t begin,
              int64_t end);
int64_t backward_scratch(const Problem&);

// d_value: (positions, channels), the frame's channels [begin, end) only. A frame's gradient comes
// from this frame alone and is added up in the order of its positions, so it is the same for any
// number of threads and any partition of the channels.
template <typename scalar>
void backward_value(const Problem&, const Inputs<scalar>&, const accumulator_t<scalar>* attention,
                    scalar* d_value, accumulator_t<scalar>* scratch, int64_t frame, int64_t begin,
                    int64_t end);
int64_t backward_value_scratch(const Problem&, int64_t channels);

}  // namespace mmsifa
