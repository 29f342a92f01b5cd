#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// One binary for every processor: GCC compiles a function once per instruction set and the loader
// picks the best. Flattening gives the same instruction set to all that it calls.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12 && !defined(MULTIVERSION)
#define MULTIVERSION \
  __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#endif
#ifndef MULTIVERSION
#define MULTIVERSION
#endif

// The passes of the loop that follows touch different memory.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INDEPENDENT
#endif

namespace mmsifa {
namespace {

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bfloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }
inline void store(bfloat16& to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
  to.bits = static_cast<uint16_t>((x == x ? rounded : bits | 0x400000) >> 16);
}

template <typename scalar>
inline const scalar* frame_of(const Problem& p, const Input<scalar>& x, int64_t frame) {
  return x.data + frame / p.clip_length * x.clip_stride + frame % p.clip_length * x.frame_stride;
}

// Some pixels of a frame that follow each other; the last one is repeated to fill the block.
struct Block {
  int64_t frame, first, count;
  int32_t row[kBlock], column[kBlock];

  Block(const Problem& p, int64_t index) {
    frame = index / p.blocks_per_frame();
    first = index % p.blocks_per_frame() * kBlock;
    count = std::min(kBlock, p.pixels() - first);
    for (int64_t i = 0; i < kBlock; ++i) {
      int64_t pixel = first + std::min(i, count - 1);
      row[i] = static_cast<int32_t>(pixel) / static_cast<int32_t>(p.width);
      column[i] = static_cast<int32_t>(pixel) % static_cast<int32_t>(p.width);
    }
  }
};

// Where a tap samples for the pixels of a block: upper left, upper right, lower left, lower right.
template <typename real>
struct Samples {
  int32_t pixel[4][kBlock];  // inside the frame
  real exists[4][kBlock];    // 1, or 0 for a pixel that is outside and was moved inside
  real weight[4][kBlock];    // bilinear, 0 for a pixel that does not exist
  real below[kBlock], right[kBlock];  // distance from the upper left pixel
};

template <typename real>
inline void locate(const Problem& p, const Input<real>& offset, const Block& block, int64_t tap,
                   Samples<real>& s) {
  const real* frame = frame_of(p, offset, block.frame);
  real down[kBlock], along[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) {
    const real* o = frame + (block.first + std::min(i, block.count - 1)) * offset.pixel_stride +
                    2 * tap * offset.channel_stride;
    down[i] = o[0];
    along[i] = o[offset.channel_stride];
  }
  const int64_t middle = p.kernel_size / 2;
  const auto tap_row = static_cast<int32_t>(p.dilation * (tap / p.kernel_size - middle));
  const auto tap_column = static_cast<int32_t>(p.dilation * (tap % p.kernel_size - middle));
  const auto height = static_cast<int32_t>(p.height), width = static_cast<int32_t>(p.width);
#pragma omp simd
  for (int64_t i = 0; i < kBlock; ++i) {
    real y = static_cast<real>(block.row[i] + tap_row) + down[i];
    real x = static_cast<real>(block.column[i] + tap_column) + along[i];
    // False for NaN; nothing becomes an index before it is known to be near the frame.
    const bool inside = (y > -1) & (y < static_cast<real>(height)) & (x > -1) &
                        (x < static_cast<real>(width));
    y = inside ? y : real(-1);
    x = inside ? x : real(-1);
    const real y_floor = std::floor(y), x_floor = std::floor(x);
    const real below = y - y_floor, right = x - x_floor;
    const auto top = static_cast<int32_t>(y_floor), left = static_cast<int32_t>(x_floor);
    const real has_top = top >= 0 ? 1 : 0, has_left = left >= 0 ? 1 : 0;
    const real has_bottom = inside & (top < height - 1) ? 1 : 0;
    const real has_right = inside & (left < width - 1) ? 1 : 0;
    const int32_t row0 = std::max(top, 0) * width, row1 = std::min(top + 1, height - 1) * width;
    const int32_t column0 = std::max(left, 0), column1 = std::min(left + 1, width - 1);
    s.below[i] = below;
    s.right[i] = right;
    s.pixel[0][i] = row0 + column0;
    s.pixel[1][i] = row0 + column1;
    s.pixel[2][i] = row1 + column0;
    s.pixel[3][i] = row1 + column1;
    s.exists[0][i] = has_top * has_left;
    s.exists[1][i] = has_top * has_right;
    s.exists[2][i] = has_bottom * has_left;
    s.exists[3][i] = has_bottom * has_right;
    s.weight[0][i] = has_top * has_left * (1 - below) * (1 - right);
    s.weight[1][i] = has_top * has_right * (1 - below) * right;
    s.weight[2][i] = has_bottom * has_left * below * (1 - right);
    s.weight[3][i] = has_bottom * has_right * below * right;
  }
}

template <typename real>
inline void softmax_over_taps(real* weights, int64_t taps) {
  real top = *std::max_element(weights, weights + taps), sum = 0;
  for (int64_t k = 0; k < taps; ++k) sum += weights[k] = std::exp(weights[k] - top);
  for (int64_t k = 0; k < taps; ++k) weights[k] /= sum;
}

// out = sum of the rows of sampled (taps, channels), each times its weight, for a head's channels.
// The sums of an unknown number of taps take the place of the first row.
template <int fixed_taps, typename scalar, typename real>
inline void weighted_sum(const Problem& p, real* sampled, const real* weights, int64_t head,
                         scalar* out) {
  const int64_t channels = p.channels, begin = head * (channels / p.heads);
  const int64_t end = begin + channels / p.heads;
  if constexpr (fixed_taps != 0) {
#pragma omp simd
    for (int64_t c = begin; c < end; ++c) {
      real sum = 0;
      for (int64_t k = 0; k < fixed_taps; ++k) sum += weights[k] * sampled[k * channels + c];
      store(out[c], sum);
    }
  } else {
    for (int64_t c = begin; c < end; ++c) sampled[c] *= weights[0];
    for (int64_t k = 1; k < p.taps(); ++k) {
      const real weight = weights[k];
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) sampled[c] += weight * sampled[k * channels + c];
    }
#pragma omp simd
    for (int64_t c = begin; c < end; ++c) store(out[c], sampled[c]);
  }
}

// Samples n taps that follow each other for the block's pixel i, and correlates them with the query.
// Two at once read the query once and fit the processor's registers.
template <int n, typename scalar, typename real>
inline void correlate(const Problem& p, const Samples<real>* samples, int64_t i,
                      const scalar* value, int64_t pixel_stride, const scalar* query, real* to,
                      real* scores) {
  const int64_t per_head = p.channels / p.heads, channels = p.channels;
  const scalar* v[n][4];
  real b[n][4];
  for (int j = 0; j < n; ++j)
    for (int m = 0; m < 4; ++m) {
      v[j][m] = value + samples[j].pixel[m][i] * pixel_stride;
      b[j][m] = samples[j].weight[m][i];
    }
  for (int64_t head = 0; head < p.heads; ++head) {
    real score[n] = {};
    INDEPENDENT
    for (int64_t c = head * per_head; c < (head + 1) * per_head; ++c) {
      const real q = load(query[c]);
#pragma GCC unroll 2
      for (int j = 0; j < n; ++j) {
        const real x = b[j][0] * load(v[j][0][c]) + b[j][1] * load(v[j][1][c]) +
                       b[j][2] * load(v[j][2][c]) + b[j][3] * load(v[j][3][c]);
        to[j * channels + c] = x;
        score[j] += q * x;
      }
    }
    for (int j = 0; j < n; ++j) scores[head * p.taps() + j] = static_cast<real>(p.scale) * score[j];
  }
}

template <int fixed_taps, typename scalar, typename real>
inline void forward_blocks(const Problem& p, const Inputs<scalar>& in, scalar* out, int64_t begin,
                           int64_t end) {
  const int64_t taps = fixed_taps ? fixed_taps : p.taps();
  std::vector<Samples<real>> samples(taps);
  std::vector<real> sampled(taps * p.channels), weights(p.heads * taps);
  for (int64_t b = begin; b < end; ++b) {
    const Block block(p, b);
    const scalar* queries = frame_of(p, in.query, block.frame);
    const scalar* value = frame_of(p, in.value, block.frame);
    for (int64_t k = 0; k < taps; ++k) locate(p, in.offset, block, k, samples[k]);
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t pixel = block.first + i;
      const scalar* query = queries + pixel * in.query.pixel_stride;
      for (int64_t k = 0; k + 1 < taps; k += 2)
        correlate<2>(p, samples.data() + k, i, value, in.value.pixel_stride, query,
                     sampled.data() + k * p.channels, weights.data() + k);
      correlate<1>(p, samples.data() + taps - 1, i, value, in.value.pixel_stride, query,
                   sampled.data() + (taps - 1) * p.channels, weights.data() + taps - 1);
      scalar* to = out + (block.frame * p.pixels() + pixel) * p.channels;
      for (int64_t head = 0; head < p.heads; ++head) {
        real* w = weights.data() + head * taps;
        if (p.softmax) softmax_over_taps(w, taps);
        weighted_sum<fixed_taps>(p, sampled.data(), w, head, to);
      }
    }
  }
}

template <int fixed_taps, typename scalar, typename real>
inline void backward_blocks(const Problem& p, const Inputs<scalar>& in, scalar* d_query,
                            real* d_offset, real* attention, int64_t begin, int64_t end) {
  const int64_t taps = fixed_taps ? fixed_taps : p.taps();
  const int64_t per_head = p.channels / p.heads, pixel_stride = in.value.pixel_stride;
  std::vector<Samples<real>> samples(taps);
  std::vector<real> sampled(taps * p.channels), weights(taps), d_scores(taps);
  std::vector<real> dots(taps * 8);      // of query and d_out with each of the four pixels
  std::vector<real> d_pixels(taps * 4);  // gradient of the sample times each of them
  for (int64_t b = begin; b < end; ++b) {
    const Block block(p, b);
    const scalar* queries = frame_of(p, in.query, block.frame);
    const scalar* d_outs = frame_of(p, in.d_out, block.frame);
    const scalar* value = frame_of(p, in.value, block.frame);
    for (int64_t k = 0; k < taps; ++k) locate(p, in.offset, block, k, samples[k]);
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t pixel = block.first + i, position = block.frame * p.pixels() + pixel;
      const scalar* query = queries + pixel * in.query.pixel_stride;
      const scalar* d_out = d_outs + pixel * in.d_out.pixel_stride;
      std::fill(d_pixels.begin(), d_pixels.end(), real(0));
      for (int64_t head = 0; head < p.heads; ++head) {
        for (int64_t k = 0; k < taps; ++k) {
          const Samples<real>& s = samples[k];
          const scalar* v0 = value + s.pixel[0][i] * pixel_stride;
          const scalar* v1 = value + s.pixel[1][i] * pixel_stride;
          const scalar* v2 = value + s.pixel[2][i] * pixel_stride;
          const scalar* v3 = value + s.pixel[3][i] * pixel_stride;
          const real b0 = s.weight[0][i], b1 = s.weight[1][i];
          const real b2 = s.weight[2][i], b3 = s.weight[3][i];
          real* to = sampled.data() + k * p.channels;
          real q0 = 0, q1 = 0, q2 = 0, q3 = 0, g0 = 0, g1 = 0, g2 = 0, g3 = 0;
#pragma omp simd reduction(+ : q0, q1, q2, q3, g0, g1, g2, g3)
          for (int64_t c = head * per_head; c < (head + 1) * per_head; ++c) {
            const real x0 = load(v0[c]), x1 = load(v1[c]), x2 = load(v2[c]), x3 = load(v3[c]);
            const real q = load(query[c]), g = load(d_out[c]);
            to[c] = b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3;
            q0 += q * x0, q1 += q * x1, q2 += q * x2, q3 += q * x3;
            g0 += g * x0, g1 += g * x1, g2 += g * x2, g3 += g * x3;
          }
          weights[k] = static_cast<real>(p.scale) * (b0 * q0 + b1 * q1 + b2 * q2 + b3 * q3);
          d_scores[k] = b0 * g0 + b1 * g1 + b2 * g2 + b3 * g3;  // yet those of the weights
          const real all[8] = {q0, q1, q2, q3, g0, g1, g2, g3};
          std::copy(all, all + 8, dots.data() + 8 * k);
        }
        real mean = 0;
        if (p.softmax) {
          softmax_over_taps(weights.data(), taps);
          for (int64_t k = 0; k < taps; ++k) mean += weights[k] * d_scores[k];
        }
        real* kept = attention + (position * p.heads + head) * taps * 2;
        for (int64_t k = 0; k < taps; ++k) {
          const real w = weights[k];
          const real a = static_cast<real>(p.scale) * (p.softmax ? w : 1) * (d_scores[k] - mean);
          d_scores[k] = a;
          kept[2 * k] = w;
          kept[2 * k + 1] = a;
          for (int j = 0; j < 4; ++j)
            d_pixels[4 * k + j] += a * dots[8 * k + j] + w * dots[8 * k + 4 + j];
        }
        weighted_sum<fixed_taps>(p, sampled.data(), d_scores.data(), head,
                                 d_query + position * p.channels);
      }
      for (int64_t k = 0; k < taps; ++k) {
        const Samples<real>& s = samples[k];
        real e[4];
        for (int j = 0; j < 4; ++j) e[j] = s.exists[j][i] * d_pixels[4 * k + j];
        const real below = s.below[i], right = s.right[i];
        real* to = d_offset + (position * taps + k) * 2;
        to[0] = (1 - right) * (e[2] - e[0]) + right * (e[3] - e[1]);
        to[1] = (1 - below) * (e[1] - e[0]) + below * (e[3] - e[2]);
      }
    }
  }
}

template <typename scalar, typename real>
inline void backward_value_channels(const Problem& p, const Inputs<scalar>& in,
                                    const real* attention, scalar* d_value, int64_t frame,
                                    int64_t begin, int64_t end) {
  const int64_t taps = p.taps(), per_head = p.channels / p.heads, count = end - begin;
  std::vector<Samples<real>> samples(taps);
  std::vector<real> d_sample(count), sum(p.pixels() * count);  // sum: (pixels, count)
  const scalar* queries = frame_of(p, in.query, frame) + begin;
  const scalar* d_outs = frame_of(p, in.d_out, frame) + begin;
  for (int64_t b = 0; b < p.blocks_per_frame(); ++b) {
    const Block block(p, frame * p.blocks_per_frame() + b);
    for (int64_t k = 0; k < taps; ++k) locate(p, in.offset, block, k, samples[k]);
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t pixel = block.first + i, position = frame * p.pixels() + pixel;
      const scalar* query = queries + pixel * in.query.pixel_stride;
      const scalar* d_out = d_outs + pixel * in.d_out.pixel_stride;
      for (int64_t k = 0; k < taps; ++k) {
        const Samples<real>& s = samples[k];
        real* d = d_sample.data();
        for (int64_t head = begin / per_head; head * per_head < end; ++head) {
          const real* kept = attention + ((position * p.heads + head) * taps + k) * 2;
          const real w = kept[0], a = kept[1];
          const int64_t last = std::min(end, (head + 1) * per_head) - begin;
#pragma omp simd
          for (int64_t c = std::max(begin, head * per_head) - begin; c < last; ++c)
            d[c] = w * load(d_out[c]) + a * load(query[c]);
        }
        for (int j = 0; j < 4; ++j) {
          const real weight = s.weight[j][i];
          if (weight == 0) continue;
          real* to = sum.data() + s.pixel[j][i] * count;
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) to[c] += weight * d[c];
        }
      }
    }
  }
  for (int64_t pixel = 0; pixel < p.pixels(); ++pixel) {
    scalar* to = d_value + (frame * p.pixels() + pixel) * p.channels + begin;
    for (int64_t c = 0; c < count; ++c) store(to[c], sum[pixel * count + c]);
  }
}

}  // namespace

// Windows of 3 x 3 have code of their own, with the sum over the taps written out.
#define INSTANTIATE(scalar)                                                                       \
  template <>                                                                                     \
  MULTIVERSION void forward(const Problem& p, const Inputs<scalar>& in, scalar* out,             \
                            int64_t begin, int64_t end) {                                         \
    using real = accumulator_t<scalar>;                                                           \
    if (p.kernel_size == 3)                                                                       \
      forward_blocks<9, scalar, real>(p, in, out, begin, end);                                    \
    else                                                                                          \
      forward_blocks<0, scalar, real>(p, in, out, begin, end);                                    \
  }                                                                                               \
  template <>                                                                                     \
  MULTIVERSION void backward(const Problem& p, const Inputs<scalar>& in, scalar* d_query,        \
                             accumulator_t<scalar>* d_offset, accumulator_t<scalar>* attention,  \
                             int64_t begin, int64_t end) {                                        \
    if (p.kernel_size == 3)                                                                       \
      backward_blocks<9>(p, in, d_query, d_offset, attention, begin, end);                        \
    else                                                                                          \
      backward_blocks<0>(p, in, d_query, d_offset, attention, begin, end);                        \
  }                                                                                               \
  template <>                                                                                     \
  MULTIVERSION void backward_value(const Problem& p, const Inputs<scalar>& in,                   \
                                   const accumulator_t<scalar>* attention, scalar* d_value,      \
                                   int64_t frame, int64_t begin, int64_t end) {                   \
    backward_value_channels(p, in, attention, d_value, frame, begin, end);                        \
  }

INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace mmsifa
