// The stages, in a place: Place gives memory, copies and loops.
#pragma once

#include <limits>
#include <stdexcept>

#include "stages.h"

namespace synctalk::gpu {

template <class Place>
class StagesIn : public Stages {
 public:
  StagesIn(const RendererTensors& tensors, Place place) : Stages(tensors), place_(std::move(place)) {
    batch_.march = pack_.net.march;
    batch_.march.occupancy = place_.upload(occupancy_, pack_.occupancy.data(), pack_.occupancy.size());
    batch_.density_scale = pack_.net.density_scale;
    batch_.max_log_density = pack_.net.max_log_density;
    batch_.is_deferred = pack_.net.is_deferred;
    batch_.n_condition = n_condition_;
    batch_.n_gates = pack_.net.n_gates;
    batch_.n_feature = pack_.net.n_feature;
    batch_.n_appearance = pack_.net.n_appearance;
  }

  StageCounts begin(const std::vector<GpuFrame>& frames) override {
    const int64_t n_pixels = int64_t{1} * frames[0].width * frames[0].height * static_cast<int64_t>(frames.size());
    if (n_pixels * batch_.march.max_samples > std::numeric_limits<int32_t>::max()) {
      throw std::invalid_argument("these are too many pixels for one batch: draw fewer pictures at once");
    }
    batch_.width = frames[0].width;
    batch_.height = frames[0].height;
    batch_.frames = place_.upload(frames_, frames.data(), frames.size());
    batch_.rays = place_.template room<StageRay>(rays_, n_pixels);
    batch_.counts = place_.template room<StageCounts>(counts_, 1);
    place_.clear(batch_.counts, sizeof(StageCounts));
    place_.for_each(n_pixels, MarchPixel{batch_});
    const StageCounts counts = place_.read(batch_.counts);
    n_rays_ = counts.rays;
    const int64_t n_values = int64_t{counts.rays} * batch_.n_values();
    batch_.accumulated = place_.template room<float>(accumulated_, n_values);
    place_.clear(batch_.accumulated, sizeof(float) * static_cast<size_t>(n_values));
    return counts;
  }

  void fill(StageRows rows, float* positions, float* condition, float* expression) override {
    batch_.owners = place_.template room<int32_t>(owners_, rows.n);
    batch_.weights = place_.template room<float>(weights_, rows.n);
    place_.for_each(n_rays_, PlaceSamples{batch_, rows, positions});
    place_.for_each(int64_t{rows.n} * batch_.n_gates, SpreadDrive{batch_, condition, expression});
  }

  void weigh(StageRows rows, const float* log_density, const float* values) override {
    place_.for_each(n_rays_, WeighSamples{batch_, rows, log_density});
    place_.for_each(int64_t{n_rays_} * batch_.n_values(), AddValues{batch_, rows, values});
  }

  void look(StageRows rows, const float* features, float* feature, float* direction, float* appearance) override {
    const LookAlong look{batch_, rows.first, features, feature, direction, appearance};
    place_.for_each(int64_t{rows.n} * look.n_columns(), look);
  }

  void blend(StageRows rows, const float* colour) override {
    place_.for_each(rows.n, BlendRay{batch_, rows.first, colour});
  }

  void paste(const Rgba* heads, uint8_t* pictures, int64_t n_pixels) override {
    place_.for_each(n_pixels, PasteHead{heads, pictures});
  }

 private:
  using Memory = typename Place::Memory;

  Place place_;
  StageBatch batch_{};
  int32_t n_rays_ = 0;
  Memory occupancy_, frames_, rays_, counts_, accumulated_, owners_, weights_;
};

}  // namespace synctalk::gpu
