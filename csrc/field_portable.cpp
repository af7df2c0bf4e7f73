#define SYNCTALK_PATH portable
#include "field_block.h"
#include "renderer_tile.h"

namespace synctalk::SYNCTALK_PATH {

extern const FieldPath field_path;
extern const RendererPath renderer_path;
const FieldPath field_path{workspace_floats, forward, backward};
const RendererPath renderer_path{renderer_floats, render_tile, query};

}  // namespace synctalk::SYNCTALK_PATH
