// What the operators check of their arguments.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>

#include "graph.h"

namespace expanders {

// The edges, contiguous, if there is one for each of `num_edges` weights and all lie within.
inline at::Tensor checked_edges(const at::Tensor& edges, int64_t num_edges, int64_t inputs,
                                int64_t outputs) {
  TORCH_CHECK(edges.dim() == 2 && edges.size(0) == 2 && edges.size(1) == num_edges,
              "edges must be (2, ", num_edges, "), one for each weight");
  at::Tensor list = edges.contiguous();
  const int64_t* first = list.const_data_ptr<int64_t>();
  TORCH_CHECK_INDEX(are_within(first, num_edges, inputs) &&
                        are_within(first + num_edges, num_edges, outputs),
                    "edges: channel out of range");
  return list;
}

// The bias, contiguous, or an undefined tensor.
inline at::Tensor checked_bias(const std::optional<at::Tensor>& bias, int64_t outputs) {
  if (!bias) return {};
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs, "bias must be (", outputs, ",)");
  return bias->contiguous();
}

}  // namespace expanders
