#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// One binary for every processor: GCC compiles a function once per instruction set and the loader
// picks the best. Flattening gives the same instruction set to all that it calls.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define MULTIVERSION \
  __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#endif
#ifndef MULTIVERSION
#define MULTIVERSION
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

// A frame and the place in it.
struct Position {
  int64_t clip, frame, row, column;
};

inline Position position(const Problem& p, int64_t index) {
  int64_t frame = index / (p.height * p.width), pixel = index % (p.height * p.width);
  return {frame / p.clip_length, frame % p.clip_length, pixel / p.width, pixel % p.width};
}

template <typename scalar>
inline const scalar* frame_of(const Input<scalar>& x, const Position& at) {
  return x.data + at.clip * x.clip_stride + at.frame * x.frame_stride;
}

template <typename scalar>
inline const scalar* pixel_of(const Input<scalar>& x, const Position& at) {
  return frame_of(x, at) + at.row * x.row_stride + at.column * x.column_stride;
}

// Where a tap samples: four pixels, upper left, upper right, lower left, lower right.
template <typename real>
struct Sample {
  int64_t row[4], column[4];  // inside the frame
  real exists[4];             // 1, or 0 for a pixel that is outside and was moved inside
  real weight[4];             // bilinear, 0 for a pixel that does not exist
  real below, right;          // distance from the upper left pixel
};

template <typename scalar, typename real>
inline Sample<real> sample(const Problem& p, const Input<scalar>& offset, const Position& at,
                           int64_t tap) {
  const scalar* o = pixel_of(offset, at) + 2 * tap * offset.channel_stride;
  int64_t middle = p.kernel_size / 2;
  real y = static_cast<real>(at.row + p.dilation * (tap / p.kernel_size - middle)) + load(o[0]);
  real x = static_cast<real>(at.column + p.dilation * (tap % p.kernel_size - middle)) +
           load(o[offset.channel_stride]);
  // False for NaN; nothing becomes an index before it is known to be near the frame.
  bool inside = y > -1 && y < static_cast<real>(p.height) && x > -1 &&
                x < static_cast<real>(p.width);
  y = inside ? y : -1;
  x = inside ? x : -1;
  real top = std::floor(y), left = std::floor(x);
  Sample<real> s;
  s.below = y - top;
  s.right = x - left;
  for (int i = 0; i < 4; ++i) {
    int64_t row = static_cast<int64_t>(top) + i / 2, column = static_cast<int64_t>(left) + i % 2;
    s.row[i] = std::clamp<int64_t>(row, 0, p.height - 1);
    s.column[i] = std::clamp<int64_t>(column, 0, p.width - 1);
    s.exists[i] = inside && row == s.row[i] && column == s.column[i];
    s.weight[i] = s.exists[i] * (i / 2 ? s.below : 1 - s.below) * (i % 2 ? s.right : 1 - s.right);
  }
  return s;
}

template <typename real>
inline void softmax_over_taps(real* weights, int64_t taps) {
  real top = *std::max_element(weights, weights + taps), sum = 0;
  for (int64_t k = 0; k < taps; ++k) sum += weights[k] = std::exp(weights[k] - top);
  for (int64_t k = 0; k < taps; ++k) weights[k] /= sum;
}

// out = sum of the rows of samples (taps, channels), each times its weight; fixed_taps or taps.
template <int fixed_taps, typename scalar, typename real>
inline void weighted_sum(const real* samples, const real* weights, int64_t stride, int64_t taps,
                         int64_t begin, int64_t end, scalar* out) {
  const int64_t count = fixed_taps ? fixed_taps : taps;
#pragma omp simd
  for (int64_t c = begin; c < end; ++c) {
    real sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += weights[k] * samples[k * stride + c];
    store(out[c], sum);
  }
}

template <typename scalar, typename real>
inline void weighted_sum(const Problem& p, const real* samples, const real* weights, int64_t head,
                         scalar* out) {
  int64_t per_head = p.channels / p.heads, begin = head * per_head, end = begin + per_head;
  if (p.kernel_size == 3)
    weighted_sum<9>(samples, weights, p.channels, 9, begin, end, out);
  else
    weighted_sum<0>(samples, weights, p.channels, p.taps(), begin, end, out);
}

template <typename scalar, typename real>
inline void forward_range(const Problem& p, const Inputs<scalar>& in, scalar* out, real* scratch,
                          int64_t begin, int64_t end) {
  const int64_t taps = p.taps(), per_head = p.channels / p.heads;
  real* samples = scratch;                       // (taps, channels)
  real* weights = scratch + taps * p.channels;  // (heads, taps)
  for (int64_t index = begin; index < end; ++index) {
    const Position at = position(p, index);
    const scalar* query = pixel_of(in.query, at);
    const scalar* value = frame_of(in.value, at);
    for (int64_t k = 0; k < taps; ++k) {
      const Sample<real> s = sample<scalar, real>(p, in.offset, at, k);
      const scalar* v[4];
      for (int i = 0; i < 4; ++i)
        v[i] = value + s.row[i] * in.value.row_stride + s.column[i] * in.value.column_stride;
      const scalar *v0 = v[0], *v1 = v[1], *v2 = v[2], *v3 = v[3];
      const real b0 = s.weight[0], b1 = s.weight[1], b2 = s.weight[2], b3 = s.weight[3];
      real* sampled = samples + k * p.channels;
      for (int64_t head = 0; head < p.heads; ++head) {
        real score = 0;
#pragma omp simd reduction(+ : score)
        for (int64_t c = head * per_head; c < (head + 1) * per_head; ++c) {
          real x = b0 * load(v0[c]) + b1 * load(v1[c]) + b2 * load(v2[c]) + b3 * load(v3[c]);
          sampled[c] = x;
          score += load(query[c]) * x;
        }
        weights[head * taps + k] = static_cast<real>(p.scale) * score;
      }
    }
    for (int64_t head = 0; head < p.heads; ++head) {
      if (p.softmax) softmax_over_taps(weights + head * taps, taps);
      weighted_sum(p, samples, weights + head * taps, head, out + index * p.channels);
    }
  }
}

template <typename scalar, typename real>
inline void backward_range(const Problem& p, const Inputs<scalar>& in, scalar* d_query,
                           scalar* d_offset, real* attention, real* scratch, int64_t begin,
                           int64_t end) {
  const int64_t taps = p.taps(), per_head = p.channels / p.heads;
  real* samples = scratch;                             // (taps, channels)
  real* query_dots = samples + taps * p.channels;      // (heads, taps, 4) with the four pixels
  real* d_out_dots = query_dots + 4 * p.heads * taps;  // (heads, taps, 4)
  real* weights = d_out_dots + 4 * p.heads * taps;     // (heads, taps)
  real* d_scores = weights + p.heads * taps;           // (heads, taps)
  for (int64_t index = begin; index < end; ++index) {
    const Position at = position(p, index);
    const scalar* query = pixel_of(in.query, at);
    const scalar* d_out = pixel_of(in.d_out, at);
    const scalar* value = frame_of(in.value, at);
    for (int64_t k = 0; k < taps; ++k) {
      const Sample<real> s = sample<scalar, real>(p, in.offset, at, k);
      const scalar* v[4];
      for (int i = 0; i < 4; ++i)
        v[i] = value + s.row[i] * in.value.row_stride + s.column[i] * in.value.column_stride;
      const scalar *v0 = v[0], *v1 = v[1], *v2 = v[2], *v3 = v[3];
      const real b0 = s.weight[0], b1 = s.weight[1], b2 = s.weight[2], b3 = s.weight[3];
      real* sampled = samples + k * p.channels;
      for (int64_t head = 0; head < p.heads; ++head) {
        real q0 = 0, q1 = 0, q2 = 0, q3 = 0, g0 = 0, g1 = 0, g2 = 0, g3 = 0;
#pragma omp simd reduction(+ : q0, q1, q2, q3, g0, g1, g2, g3)
        for (int64_t c = head * per_head; c < (head + 1) * per_head; ++c) {
          real x0 = load(v0[c]), x1 = load(v1[c]), x2 = load(v2[c]), x3 = load(v3[c]);
          real q = load(query[c]), g = load(d_out[c]);
          sampled[c] = b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3;
          q0 += q * x0, q1 += q * x1, q2 += q * x2, q3 += q * x3;
          g0 += g * x0, g1 += g * x1, g2 += g * x2, g3 += g * x3;
        }
        const int64_t i = head * taps + k;
        weights[i] = static_cast<real>(p.scale) * (b0 * q0 + b1 * q1 + b2 * q2 + b3 * q3);
        d_scores[i] = b0 * g0 + b1 * g1 + b2 * g2 + b3 * g3;
        const real q[4] = {q0, q1, q2, q3}, g[4] = {g0, g1, g2, g3};
        std::copy(q, q + 4, query_dots + 4 * i);
        std::copy(g, g + 4, d_out_dots + 4 * i);
      }
    }
    for (int64_t head = 0; head < p.heads; ++head) {
      real *w = weights + head * taps, *a = d_scores + head * taps;
      real mean = 0;
      if (p.softmax) {
        softmax_over_taps(w, taps);
        for (int64_t k = 0; k < taps; ++k) mean += w[k] * a[k];
      }
      for (int64_t k = 0; k < taps; ++k) {
        a[k] = static_cast<real>(p.scale) * (p.softmax ? w[k] * (a[k] - mean) : a[k]);
        attention[((index * p.heads + head) * taps + k) * 2] = w[k];
        attention[((index * p.heads + head) * taps + k) * 2 + 1] = a[k];
      }
      weighted_sum(p, samples, a, head, d_query + index * p.channels);
    }
    for (int64_t k = 0; k < taps; ++k) {
      const Sample<real> s = sample<scalar, real>(p, in.offset, at, k);
      real e[4] = {0, 0, 0, 0};  // gradient of the sample times each pixel
      for (int64_t i = k; i < p.heads * taps; i += taps)
        for (int j = 0; j < 4; ++j)
          e[j] += s.exists[j] *
                  (weights[i] * d_out_dots[4 * i + j] + d_scores[i] * query_dots[4 * i + j]);
      scalar* d = d_offset + (index * taps + k) * 2;
      store(d[0], (1 - s.right) * (e[2] - e[0]) + s.right * (e[3] - e[1]));
      store(d[1], (1 - s.below) * (e[1] - e[0]) + s.below * (e[3] - e[2]));
    }
  }
}

template <typename scalar, typename real>
inline void backward_value_range(const Problem& p, const Inputs<scalar>& in, const real* attention,
                                 scalar* d_value, real* scratch, int64_t frame, int64_t begin,
                                 int64_t end) {
  const int64_t taps = p.taps(), per_head = p.channels / p.heads, count = end - begin;
  const int64_t pixels = p.height * p.width;
  real* d_sample = scratch;      // (count)
  real* sum = scratch + count;  // (pixels, count)
  std::fill(sum, sum + pixels * count, real(0));
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const int64_t index = frame * pixels + pixel;
    const Position at = position(p, index);
    const scalar* query = pixel_of(in.query, at) + begin;
    const scalar* d_out = pixel_of(in.d_out, at) + begin;
    for (int64_t k = 0; k < taps; ++k) {
      const Sample<real> s = sample<scalar, real>(p, in.offset, at, k);
      for (int64_t head = begin / per_head; head * per_head < end; ++head) {
        const real* wa = attention + ((index * p.heads + head) * taps + k) * 2;
        const real w = wa[0], a = wa[1];
        const int64_t last = std::min(end, (head + 1) * per_head) - begin;
#pragma omp simd
        for (int64_t c = std::max(begin, head * per_head) - begin; c < last; ++c)
          d_sample[c] = w * load(d_out[c]) + a * load(query[c]);
      }
      for (int i = 0; i < 4; ++i) {
        if (s.weight[i] == 0) continue;
        real* to = sum + (s.row[i] * p.width + s.column[i]) * count;
        const real weight = s.weight[i];
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) to[c] += weight * d_sample[c];
      }
    }
  }
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t c = 0; c < count; ++c)
      store(d_value[(frame * pixels + pixel) * p.channels + begin + c], sum[pixel * count + c]);
}

}  // namespace

int64_t forward_scratch(const Problem& p) { return p.taps() * (p.channels + p.heads); }

int64_t backward_scratch(const Problem& p) { return p.taps() * (p.channels + 10 * p.heads); }

int64_t backward_value_scratch(const Problem& p, int64_t channels) {
  return (p.height * p.width + 1) * channels;
}

#define INSTANTIATE(scalar)                                                                      \
  template <>                                                                                    \
  MULTIVERSION void forward(const Problem& p, const Inputs<scalar>& in, scalar* out,            \
                            accumulator_t<scalar>* scratch, int64_t begin, int64_t end) {       \
    forward_range(p, in, out, scratch, begin, end);                                              \
  }                                                                                              \
  template <>                                                                                    \
  MULTIVERSION void backward(const Problem& p, const Inputs<scalar>& in, scalar* d_query,       \
                             scalar* d_offset, accumulator_t<scalar>* attention,                 \
                             accumulator_t<scalar>* scratch, int64_t begin, int64_t end) {      \
    backward_range(p, in, d_query, d_offset, attention, scratch, begin, end);                   \
  }                                                                                              \
  template <>                                                                                    \
  MULTIVERSION void backward_value(const Problem& p, const Inputs<scalar>& in,                  \
                                   const accumulator_t<scalar>* attention, scalar* d_value,     \
                                   accumulator_t<scalar>* scratch, int64_t frame, int64_t begin, \
                                   int64_t end) {                                                \
    backward_value_range(p, in, attention, d_value, scratch, frame, begin, end);                \
  }

INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace mmsifa
