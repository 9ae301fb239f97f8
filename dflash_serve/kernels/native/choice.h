#pragma once

#include <optional>

#include "arrays.h"

namespace dflash {

// How sampled rows draw: settings [R, 4] float32 (temperature, top_p, top_k, min_p; temperature 0
// chooses the greatest) and keys [R, width, 2] uint32.
struct Draw {
  mx::array settings;
  mx::array keys;
};

// Drafts [R, width - 1] and block lengths [R], int32, of a round of chains: positions that stand
// beyond a row's length, or behind one whose token is not the draft's, are not chosen.
struct Drafted {
  mx::array drafts;
  mx::array lengths;
};

// Logits [R, width, V] float32 -> tokens [R, width] int32, -1 where none is chosen.
mx::array choose(const mx::array& logits, const std::optional<Draw>& draw,
                 const std::optional<Drafted>& drafted);

}  // namespace dflash
