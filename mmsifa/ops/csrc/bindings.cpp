// The kernels on PyTorch tensors and threads: the Python module mmsifa.ops._cpu.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <tuple>

#include "kernels.h"

namespace {

using at::Tensor;
using mmsifa::accumulator_t;
using mmsifa::Problem;

// The Python side has checked the arguments and says what is wrong; this guards memory alone.
Problem problem(const Tensor& query, const Tensor& value, const Tensor& offset, int64_t kernel_size,
                int64_t dilation, int64_t heads, double scale, bool softmax) {
  TORCH_CHECK(query.dim() == 5 && value.sizes() == query.sizes() && offset.dim() == 5 &&
                  kernel_size > 0 && kernel_size % 2 && heads > 0 && query.size(2) % heads == 0,
              "inter-frame attention got arguments that do not fit");
  Problem p;
  p.clip_length = query.size(1);
  p.frames = query.size(0) * query.size(1);
  p.channels = query.size(2);
  p.height = query.size(3);
  p.width = query.size(4);
  p.kernel_size = kernel_size;
  p.dilation = dilation;
  p.heads = heads;
  p.scale = scale;
  p.softmax = softmax;
  TORCH_CHECK(offset.sizes() == at::IntArrayRef({query.size(0), query.size(1), 2 * p.taps(),
                                                 query.size(3), query.size(4)}),
              "inter-frame attention got offsets that do not fit");
  TORCH_CHECK(p.pixels() < (1 << 30) && dilation * kernel_size < (1 << 30),
              "inter-frame attention on the CPU takes frames of less than 2**30 pixels");
  TORCH_CHECK(value.scalar_type() == query.scalar_type() && query.is_cpu() && value.is_cpu() &&
                  offset.is_cpu(),
              "inter-frame attention got tensors of different kinds");
  return p;
}

Tensor empty_with_channels_last(const Tensor& like) {
  return at::empty({like.size(0), like.size(1), like.size(3), like.size(4), like.size(2)},
                   like.options())
      .permute({0, 1, 4, 2, 3});
}

// What the kernels read: pixels in even steps and, unless said otherwise, adjacent channels. Frames
// of a tensor with channels last are so; anything else is copied.
Tensor readable(const Tensor& x, bool any_channel_stride = false) {
  const bool even = x.size(3) == 1 || x.size(4) == 1 || x.stride(3) == x.size(4) * x.stride(4);
  const bool adjacent = any_channel_stride || x.size(2) == 1 || x.stride(2) == 1;
  return even && adjacent ? x : empty_with_channels_last(x).copy_(x);
}

// Offsets are read in the precision of the sums.
Tensor readable_offset(const Tensor& offset, const Tensor& query) {
  return readable(offset.to(query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat), true);
}

template <typename scalar>
mmsifa::Input<scalar> input(const Tensor& x) {
  return {static_cast<const scalar*>(x.const_data_ptr()), x.stride(0), x.stride(1),
          x.stride(x.size(4) > 1 ? 4 : 3), x.stride(2)};
}

template <typename Run>
void with_dtype(const Tensor& query, Run run) {
  switch (query.scalar_type()) {
    case at::kFloat:
      return run(float());
    case at::kDouble:
      return run(double());
    case at::kBFloat16:
      return run(mmsifa::bfloat16());
    default:
      TORCH_CHECK(false, "inter-frame attention on the CPU has no kernel for ", query.dtype());
  }
}

// Blocks for a thread to take at least, so that starting it pays.
int64_t grain_size(const Problem& p) { return 1 + 1024 / (p.taps() * (p.channels + 1)); }

Tensor forward(const Tensor& query, const Tensor& value, const Tensor& offset, int64_t kernel_size,
               int64_t dilation, int64_t heads, double scale, bool softmax) {
  const Problem p =
      problem(query, value, offset, kernel_size, dilation, heads, scale, softmax);
  Tensor out = empty_with_channels_last(query);
  if (out.numel() == 0) return out;
  const Tensor q = readable(query), v = readable(value);
  const Tensor o = readable_offset(offset, query);
  with_dtype(query, [&](auto zero) {
    using scalar = decltype(zero);
    using real = accumulator_t<scalar>;
    const mmsifa::Inputs<scalar> in{input<scalar>(q), input<scalar>(v), {}, input<real>(o)};
    auto* to = static_cast<scalar*>(out.mutable_data_ptr());
    at::parallel_for(0, p.blocks(), grain_size(p), [&](int64_t begin, int64_t end) {
      mmsifa::forward<scalar>(p, in, to, begin, end);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& d_out, const Tensor& query,
                                            const Tensor& value, const Tensor& offset,
                                            int64_t kernel_size, int64_t dilation, int64_t heads,
                                            double scale, bool softmax) {
  const Problem p =
      problem(query, value, offset, kernel_size, dilation, heads, scale, softmax);
  TORCH_CHECK(d_out.sizes() == query.sizes() && d_out.scalar_type() == query.scalar_type() &&
                  d_out.is_cpu(),
              "inter-frame attention got a gradient that does not fit");
  Tensor d_query = empty_with_channels_last(query), d_value = empty_with_channels_last(value);
  if (query.numel() == 0)
    return {d_query, d_value, empty_with_channels_last(offset).zero_()};
  const Tensor q = readable(query), v = readable(value);
  const Tensor o = readable_offset(offset, query);
  const Tensor g = readable(d_out);
  const Tensor d_offset = empty_with_channels_last(o);
  with_dtype(query, [&](auto zero) {
    using scalar = decltype(zero);
    using real = accumulator_t<scalar>;
    const mmsifa::Inputs<scalar> in{input<scalar>(q), input<scalar>(v), input<scalar>(g),
                                    input<real>(o)};
    auto* to_query = static_cast<scalar*>(d_query.mutable_data_ptr());
    auto* to_value = static_cast<scalar*>(d_value.mutable_data_ptr());
    auto* to_offset = static_cast<real*>(d_offset.mutable_data_ptr());
    const Tensor buffer = at::empty({p.frames * p.pixels() * p.heads * p.taps() * 2},
                                    at::CppTypeToScalarType<real>::value);
    auto* attention = buffer.mutable_data_ptr<real>();
    at::parallel_for(0, p.blocks(), grain_size(p), [&](int64_t begin, int64_t end) {
      mmsifa::backward<scalar>(p, in, to_query, to_offset, attention, begin, end);
    });
    // Every frame's channels are cut into parts, so that there are some for each thread.
    const int64_t wanted = 4 * at::get_num_threads() / p.frames + 1;
    const int64_t part = std::clamp<int64_t>(p.channels / wanted, 64, 256);
    const int64_t parts = (p.channels + part - 1) / part;
    at::parallel_for(0, p.frames * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % parts * part, last = std::min(first + part, p.channels);
        mmsifa::backward_value<scalar>(p, in, attention, to_value, task / parts, first, last);
      }
    });
  });
  return {d_query, d_value, d_offset.to(offset.scalar_type())};
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using guard = pybind11::call_guard<pybind11::gil_scoped_release>;
  module.def("forward", &forward, guard());
  module.def("backward", &backward, guard());
}
