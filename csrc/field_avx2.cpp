#define SYNCTALK_PATH avx2
#include "field_block.h"
