#pragma once

#include <optional>

#include "arrays.h"

namespace dflash {

// How the columns of a forward stand that do not follow one another: depths [R, q] int32,
// sees [R, q, q] bool, lines [R, q, L] int32 of trees.
struct ColumnLayout {
  mx::array depths;
  mx::array sees;
  std::optional<mx::array> lines;
};

// What is the same for all rows. `ring`: the capacity at which a row's cache wraps, 0 for never.
struct RowRule {
  float scale = 1;
  bool causal = true;
  int window = 0;
  int ring = 0;
  int spare = 0;
  bool writes = true;
};

// Queries [R, heads, q, d], new keys and values [R, kv_heads, q, d], starts and lengths [R] int32
// and the rows' caches (keys, values, keys, ...), each [1, kv_heads, capacity, d], which are
// written in place where nobody else reads them. -> output [R, heads, q, d], then the
// caches, but for a rule that writes nothing.
std::vector<mx::array> attend(const mx::array& queries, const mx::array& keys,
                              const mx::array& values, const mx::array& starts,
                              const mx::array& lengths, const std::vector<mx::array>& caches,
                              const RowRule& rule, const std::optional<mx::array>& sinks,
                              const std::optional<ColumnLayout>& layout);

// Writes the first `lengths` keys and values of each row alone -> the caches.
std::vector<mx::array> write(const mx::array& keys, const mx::array& values,
                             const mx::array& starts, const mx::array& lengths,
                             const std::vector<mx::array>& caches, int ring);

}  // namespace dflash
