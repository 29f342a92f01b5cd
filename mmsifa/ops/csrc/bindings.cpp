// The kernels on PyTorch's tensors and threads: its operators mmsifa::cpu_forward and cpu_backward.
// They use the stable ABI alone, so that one binary serves every PyTorch from 2.10 on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "kernels.h"

namespace {

using mmsifa::accumulator_t;
using mmsifa::Problem;
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;

void check(bool fits) {
  STD_TORCH_CHECK(fits, "inter-frame attention on the CPU got arguments that do not fit");
}

ScalarType accumulator_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// (N, T, C, H, W)
Tensor empty_with_channels_last(const Tensor& like) {
  const Tensor x = torch::stable::new_empty(
      like, {like.size(0), like.size(1), like.size(3), like.size(4), like.size(2)});
  return torch::stable::transpose(torch::stable::transpose(x, 3, 4), 2, 3);
}

// In a frame pixels in even steps, and channels next to each other or anywhere.
Tensor readable(const Tensor& x, bool any_channel_stride = false) {
  const bool even = x.size(3) == 1 || x.size(4) == 1 || x.stride(3) == x.size(4) * x.stride(4);
  if (even && (any_channel_stride || x.size(2) == 1 || x.stride(2) == 1)) return x;
  Tensor copy = empty_with_channels_last(x);
  return torch::stable::copy_(copy, x);
}

Tensor with_dtype_of(const Tensor& x, ScalarType dtype) {
  return x.scalar_type() == dtype ? x : torch::stable::to(x, dtype);
}

// Offsets are read in the precision of the sums.
Tensor readable_offset(const Tensor& offset, const Tensor& query) {
  return readable(with_dtype_of(offset, accumulator_of(query)), true);
}

// The op says what is wrong with arguments; this guards memory alone.
void check_input(const Tensor& x, const std::array<int64_t, 5>& shape) {
  check(x.is_cpu() && x.dim() == 5);
  for (int64_t i = 0; i < 5; ++i) check(x.size(i) == shape[i]);
}

Problem problem(const Tensor& query, const Tensor& value, const Tensor& offset, int64_t kernel_size,
                int64_t dilation, int64_t heads, double scale, bool softmax) {
  check(query.dim() == 5 && kernel_size > 0 && kernel_size % 2 && dilation > 0 && heads > 0 &&
        query.size(2) % heads == 0);
  const int64_t clips = query.size(0), clip_length = query.size(1), channels = query.size(2);
  const int64_t height = query.size(3), width = query.size(4);
  const std::array<int64_t, 5> shape = {clips, clip_length, channels, height, width};
  for (const Tensor* x : {&query, &value}) {
    check_input(*x, shape);
    check(x->scalar_type() == query.scalar_type());
  }
  check_input(offset, {clips, clip_length, 2 * kernel_size * kernel_size, height, width});
  STD_TORCH_CHECK(height * width < (1 << 30) && dilation * kernel_size < (1 << 30),
                  "inter-frame attention on the CPU takes frames of less than 2**30 pixels");
  return {clips * clip_length, height, width, channels, clip_length, kernel_size,
          dilation,            heads,  scale, softmax};
}

template <typename scalar>
mmsifa::Input<scalar> input(const Tensor& x) {
  return {static_cast<const scalar*>(x.const_data_ptr()), x.stride(0), x.stride(1),
          x.stride(x.size(4) > 1 ? 4 : 3), x.stride(2)};
}

template <typename scalar>
scalar* output(const Tensor& x) {
  return static_cast<scalar*>(x.mutable_data_ptr());
}

template <typename Run>
void with_dtype(const Tensor& query, Run run) {
  switch (query.scalar_type()) {
    case ScalarType::Float:
      return run(float());
    case ScalarType::Double:
      return run(double());
    case ScalarType::BFloat16:
      return run(mmsifa::bfloat16());
    default:
      STD_TORCH_CHECK(false, "inter-frame attention on the CPU has no kernel for this dtype");
  }
}

// Blocks for a thread to take at least, so that starting it pays.
int64_t grain_size(const Problem& p) { return 1 + 1024 / (p.taps() * (p.channels + 1)); }

Tensor forward(const Tensor& query, const Tensor& value, const Tensor& offset, int64_t kernel_size,
               int64_t dilation, int64_t heads, double scale, bool softmax) {
  const Problem p = problem(query, value, offset, kernel_size, dilation, heads, scale, softmax);
  const Tensor out = empty_with_channels_last(query);
  if (out.numel() == 0) return out;
  const Tensor q = readable(query), v = readable(value), o = readable_offset(offset, query);
  with_dtype(query, [&](auto zero) {
    using scalar = decltype(zero);
    using real = accumulator_t<scalar>;
    const mmsifa::Inputs<scalar> in{input<scalar>(q), input<scalar>(v), {}, input<real>(o)};
    auto* to = output<scalar>(out);
    parallel_for(0, p.blocks(), grain_size(p), [&](int64_t begin, int64_t end) {
      mmsifa::forward<scalar>(p, in, to, begin, end);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& d_out, const Tensor& query,
                                            const Tensor& value, const Tensor& offset,
                                            int64_t kernel_size, int64_t dilation, int64_t heads,
                                            double scale, bool softmax) {
  const Problem p = problem(query, value, offset, kernel_size, dilation, heads, scale, softmax);
  check_input(d_out, {query.size(0), query.size(1), query.size(2), query.size(3), query.size(4)});
  check(d_out.scalar_type() == query.scalar_type());
  const Tensor d_query = empty_with_channels_last(query), d_value = empty_with_channels_last(value);
  if (query.numel() == 0) {
    Tensor d_offset = empty_with_channels_last(offset);
    return {d_query, d_value, torch::stable::zero_(d_offset)};
  }
  const Tensor q = readable(query), v = readable(value), o = readable_offset(offset, query);
  const Tensor g = readable(d_out), d_offset = empty_with_channels_last(o);
  // What the passes tell each other.
  const int64_t positions = p.frames * p.pixels();
  const Tensor attention = torch::stable::new_empty(o, {positions * p.heads * p.taps() * 2});
  with_dtype(query, [&](auto zero) {
    using scalar = decltype(zero);
    using real = accumulator_t<scalar>;
    const mmsifa::Inputs<scalar> in{input<scalar>(q), input<scalar>(v), input<scalar>(g),
                                    input<real>(o)};
    auto *to_query = output<scalar>(d_query), *to_value = output<scalar>(d_value);
    auto *to_offset = output<real>(d_offset), *to_attention = output<real>(attention);
    parallel_for(0, p.blocks(), grain_size(p), [&](int64_t begin, int64_t end) {
      mmsifa::backward<scalar>(p, in, to_query, to_offset, to_attention, begin, end);
    });
    // Every frame's channels are cut into parts, so that there are some for each thread.
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t wanted = 4 * threads / p.frames + 1;
    const int64_t part = std::clamp<int64_t>(p.channels / wanted, 64, 256);
    const int64_t parts = (p.channels + part - 1) / part;
    parallel_for(0, p.frames * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % parts * part, last = std::min(first + part, p.channels);
        mmsifa::backward_value<scalar>(p, in, to_attention, to_value, task / parts, first, last);
      }
    });
  });
  return {d_query, d_value, with_dtype_of(d_offset, offset.scalar_type())};
}

}  // namespace

#define OPTIONS "int kernel_size, int dilation, int num_heads, float scale, bool softmax"

STABLE_TORCH_LIBRARY_FRAGMENT(mmsifa, library) {
  library.def("cpu_forward(Tensor query, Tensor value, Tensor offset, " OPTIONS ") -> Tensor");
  library.def("cpu_backward(Tensor d_out, Tensor query, Tensor value, Tensor offset, " OPTIONS
              ") -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mmsifa, CPU, library) {
  library.impl("cpu_forward", TORCH_BOX(&forward));
  library.impl("cpu_backward", TORCH_BOX(&backward));
}
