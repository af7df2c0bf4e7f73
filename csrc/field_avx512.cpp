#define SYNCTALK_PATH avx512
#include "field_block.h"
