// The kernels of one instruction set as tables of functions: all that a file named *_<path>.cpp holds.
#pragma once

#include "field_block.h"
#include "renderer_tile.h"
#include "upsampler_bytes.h"

namespace synctalk::SYNCTALK_PATH {

extern const FieldPath field_path;
extern const RendererPath renderer_path;
extern const UpsamplerPath upsampler_path;
const FieldPath field_path{workspace_floats, forward, backward};
const RendererPath renderer_path{renderer_floats, render_tile, query};
const UpsamplerPath upsampler_path{{convolve, convolve_hidden, modulate, halve, merge},
                                   {convolve_bytes, convolve_hidden_bytes, modulate_bytes, halve_bytes, merge_bytes},
                                   enlarge};

}  // namespace synctalk::SYNCTALK_PATH
