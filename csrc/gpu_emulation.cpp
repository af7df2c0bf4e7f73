#include "gpu_emulation.h"

#include "gpu_program.h"
#include "threads.h"

namespace synctalk::gpu {

GpuEmulation::GpuEmulation(const RendererTensors& tensors, bool is_half, bool is_reversed)
    : pack_(tensors), n_condition_(tensors.condition), is_half_(is_half), is_reversed_(is_reversed) {}

void GpuEmulation::render(const std::vector<GpuFrame>& frames) const {
  const GpuNet& net = pack_.net;
  for (const GpuFrame& frame : frames) {
    const int n_tiles = tile_columns(frame.width) * tile_rows(frame.height);
    std::vector<uint32_t> gated(static_cast<size_t>(net.gated.n_words()));
    std::vector<GpuDepths> depths(static_cast<size_t>(n_tiles), {EMPTY_BITS, EMPTY_BITS});
    const GpuScratch scratch{gated.data(), depths.data()};
    for (int item = 0; item < n_prepare_items(net); ++item) prepare(net, frame, scratch, item);
    parallel_for(n_tiles, 1, [&](int64_t begin, int64_t end) {
      std::vector<Word> memory(static_cast<size_t>(space_of(net, is_half_, nullptr).n_words));
      HostBlock block(memory.data(), is_reversed_);
      for (int tile = static_cast<int>(begin); tile < end; ++tile) {
        if (!is_half_)
          render_tile<FloatFields>(block, net, frame, scratch, tile);
        else if (widest_layer(net) <= 64)
          render_tile<HalfFields<8>>(block, net, frame, scratch, tile);
        else
          render_tile<HalfFields<16>>(block, net, frame, scratch, tile);
      }
    });
  }
}

}  // namespace synctalk::gpu
