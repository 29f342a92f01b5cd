// The kernels on PyTorch's tensors and threads: its operators mmsifa::cpu_forward and cpu_backward.
// They use the stable ABI alone, so that one binary serves every PyTorch from 2.10 on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>

#include "kernels.h"

namespace {

using mmsifa::accumulator_t;
using mmsifa::Problem;
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;

// cpu.py has prepared the arguments and the op says what is wrong; this guards memory alone.
void check(bool fits) {
  STD_TORCH_CHECK(fits, "inter-frame attention on the CPU got arguments that do not fit");
}

ScalarType accumulator_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// What is read: (N, T, C, H, W), in a frame pixels in even steps.
void check_input(const Tensor& x, ScalarType dtype, const std::array<int64_t, 5>& shape,
                 bool any_channel_stride = false) {
  check(x.is_cpu() && x.scalar_type() == dtype && x.dim() == 5);
  for (int64_t i = 0; i < 5; ++i) check(x.size(i) == shape[i]);
  check(any_channel_stride || x.size(2) == 1 || x.stride(2) == 1);
  check(x.size(3) == 1 || x.size(4) == 1 || x.stride(3) == x.size(4) * x.stride(4));
}

// What is written: the shape of `like`, with channels last in memory.
void check_output(const Tensor& x, ScalarType dtype, const Tensor& like) {
  check(x.is_cpu() && x.scalar_type() == dtype && x.dim() == 5);
  int64_t stride = 1;
  for (int64_t i : {2, 4, 3, 1, 0}) {
    check(x.size(i) == like.size(i) && (x.size(i) < 2 || x.stride(i) == stride));
    stride *= x.size(i);
  }
}

Problem problem(const Tensor& query, const Tensor& value, const Tensor& offset, int64_t kernel_size,
                int64_t dilation, int64_t heads, double scale, bool softmax) {
  check(query.dim() == 5 && kernel_size > 0 && kernel_size % 2 && dilation > 0 && heads > 0 &&
        query.size(2) % heads == 0);
  const int64_t clips = query.size(0), clip_length = query.size(1), channels = query.size(2);
  const int64_t height = query.size(3), width = query.size(4);
  const std::array<int64_t, 5> shape = {clips, clip_length, channels, height, width};
  for (const Tensor* x : {&query, &value}) check_input(*x, query.scalar_type(), shape);
  check_input(offset, accumulator_of(query),
              {clips, clip_length, 2 * kernel_size * kernel_size, height, width}, true);
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

void forward(const Tensor& query, const Tensor& value, const Tensor& offset, const Tensor& out,
             int64_t kernel_size, int64_t dilation, int64_t heads, double scale, bool softmax) {
  const Problem p = problem(query, value, offset, kernel_size, dilation, heads, scale, softmax);
  check_output(out, query.scalar_type(), query);
  with_dtype(query, [&](auto zero) {
    using scalar = decltype(zero);
    using real = accumulator_t<scalar>;
    const mmsifa::Inputs<scalar> in{input<scalar>(query), input<scalar>(value), {},
                                    input<real>(offset)};
    auto* to = output<scalar>(out);
    parallel_for(0, p.blocks(), grain_size(p), [&](int64_t begin, int64_t end) {
      mmsifa::forward<scalar>(p, in, to, begin, end);
    });
  });
}

// attention: (N, T, H, W, heads, taps, 2), what the passes tell each other.
void backward(const Tensor& d_out, const Tensor& query, const Tensor& value, const Tensor& offset,
              const Tensor& d_query, const Tensor& d_value, const Tensor& d_offset,
              const Tensor& attention, int64_t kernel_size, int64_t dilation, int64_t heads,
              double scale, bool softmax) {
  const Problem p = problem(query, value, offset, kernel_size, dilation, heads, scale, softmax);
  const ScalarType dtype = query.scalar_type(), accumulator = accumulator_of(query);
  check_input(d_out, dtype,
              {query.size(0), query.size(1), query.size(2), query.size(3), query.size(4)});
  check_output(d_query, dtype, query);
  check_output(d_value, dtype, query);
  check_output(d_offset, accumulator, offset);
  check(attention.is_cpu() && attention.scalar_type() == accumulator && attention.is_contiguous() &&
        attention.numel() == p.frames * p.pixels() * p.heads * p.taps() * 2);
  with_dtype(query, [&](auto zero) {
    using scalar = decltype(zero);
    using real = accumulator_t<scalar>;
    const mmsifa::Inputs<scalar> in{input<scalar>(query), input<scalar>(value),
                                    input<scalar>(d_out), input<real>(offset)};
    auto *to_query = output<scalar>(d_query), *to_value = output<scalar>(d_value);
    auto *to_offset = output<real>(d_offset), *to_attention = output<real>(attention);
    parallel_for(0, p.blocks(), grain_size(p), [&](int64_t begin, int64_t end) {
      mmsifa::backward<scalar>(p, in, to_query, to_offset, to_attention, begin, end);
    });
    // Every frame's channels are cut into parts, so that there are some for each thread.
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t wanted = 4 * threads / std::max<int64_t>(p.frames, 1) + 1;
    const int64_t part = std::clamp<int64_t>(p.channels / wanted, 64, 256);
    const int64_t parts = (p.channels + part - 1) / part;
    parallel_for(0, p.frames * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % parts * part, last = std::min(first + part, p.channels);
        mmsifa::backward_value<scalar>(p, in, to_attention, to_value, task / parts, first, last);
      }
    });
  });
}

}  // namespace

#define OPTIONS "int kernel_size, int dilation, int num_heads, float scale, bool softmax"

STABLE_TORCH_LIBRARY_FRAGMENT(mmsifa, library) {
  library.def("cpu_forward(Tensor query, Tensor value, Tensor offset, Tensor(a!) out, " OPTIONS
              ") -> ()");
  library.def(
      "cpu_backward(Tensor d_out, Tensor query, Tensor value, Tensor offset, Tensor(a!) d_query, "
      "Tensor(b!) d_value, Tensor(c!) d_offset, Tensor(d!) attention, " OPTIONS ") -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mmsifa, CPU, library) {
  library.impl("cpu_forward", TORCH_BOX(&forward));
  library.impl("cpu_backward", TORCH_BOX(&backward));
}
