// Where a field has anything at all: the occupancy in boxes of a few cells.
#pragma once

#include <vector>

#include "view.h"

namespace synctalk {

struct Bricks {
  std::vector<Brick> bricks;
  float half[3];  // extent of each, metres
};

// march.occupancy: host memory.
Bricks bricks_of(const March& march);

}  // namespace synctalk
