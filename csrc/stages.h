// A picture in stages, between engines that evaluate rows: march, fill in the rows of points, weigh what comes back,
// fill in the rows of colours, blend. For runtimes that take a network whole (TensorRT); a stage is one function of an
// index, and a loop or a kernel round it.
#pragma once

#include <memory>
#include <vector>

#ifdef __CUDACC__
#include <cooperative_groups.h>
#include <cooperative_groups/scan.h>
#endif

#include "gpu_pack.h"
#include "gpu_program.h"

namespace synctalk::gpu {

// A ray that meets something, and what is left of its light so far.
struct StageRay {
  int32_t pixel;     // counted through all frames, row by row
  int32_t first, n;  // its samples among those of all rays
  float transmittance;
};

struct StageCounts {
  int32_t samples, rays;
};

// What the stages of a batch of pictures share; rows are those of one call of an engine.
struct StageBatch {
  March march;
  float density_scale, max_log_density;
  bool is_deferred;
  int n_condition, n_gates, n_feature, n_appearance;
  int width, height;
  const GpuFrame* frames;
  StageCounts* counts;
  StageRay* rays;      // [counts.rays], in no order
  float* accumulated;  // [counts.rays, n_values]
  int32_t* owners;     // [rows]: their rays
  float* weights;      // [rows]

  SYNCTALK_HD int n_values() const { return is_deferred ? n_feature : 3; }
  SYNCTALK_HD const GpuFrame& frame_at(int32_t pixel) const { return frames[pixel / (width * height)]; }
  SYNCTALK_HD int row_of(int32_t pixel) const { return pixel % (width * height) / width; }
  SYNCTALK_HD int column_of(int32_t pixel) const { return pixel % width; }

  SYNCTALK_HD Ray ray_of(int32_t pixel, float origin[3]) const {
    const View& view = frame_at(pixel).view;
    camera_origin(view, origin);
    return make_ray(march, view, 0.0f, 1e6f, origin, column_of(pixel), row_of(pixel));
  }
};

// Samples [first, first + n) of all rays.
struct StageRows {
  int32_t first, n;

  // Where a ray's samples [begin, end) among the rows begin and end; none where begin >= end.
  SYNCTALK_HD int32_t begin(const StageRay& ray) const { return ray.first > first ? ray.first - first : 0; }
  SYNCTALK_HD int32_t end(const StageRay& ray) const {
    const int32_t last = ray.first + ray.n - first;
    return last < n ? last : n;
  }
};

// Adds n to a counter that all threads share; returns what it was.
SYNCTALK_HD int32_t reserve(int32_t* counter, int32_t n) {
#ifdef __CUDA_ARCH__
  // Threads that come here together share one atomic operation.
  const auto together = cooperative_groups::coalesced_threads();
  const int32_t before = cooperative_groups::exclusive_scan(together, n);
  const unsigned last = together.num_threads() - 1;
  int32_t first = 0;
  if (together.thread_rank() == last) first = atomicAdd(counter, before + n);
  return together.shfl(first, last) + before;
#else
  const int32_t first = *counter;
  *counter += n;
  return first;
#endif
}

// For every pixel: whether its ray meets anything, and where its samples are counted.
struct MarchPixel {
  StageBatch batch;

  SYNCTALK_HD void operator()(int64_t i) const {
    const auto pixel = static_cast<int32_t>(i);
    float origin[3];
    const Ray ray = batch.ray_of(pixel, origin);
    const int n = march_ray(batch.march, origin, ray.direction, 0.5f, [](int, float) {});
    if (n == 0) return;
    const int32_t first = reserve(&batch.counts->samples, n);
    batch.rays[reserve(&batch.counts->rays, 1)] = {pixel, first, n, 1.0f};
  }
};

// For every ray: the positions of its samples, and whose they are.
struct PlaceSamples {
  StageBatch batch;
  StageRows rows;
  float* positions;  // [n, 3]

  SYNCTALK_HD void operator()(int64_t i) const {
    const StageRay& ray = batch.rays[i];
    const int32_t begin = rows.begin(ray), end = rows.end(ray);
    if (begin >= end) return;
    float origin[3];
    const Ray line = batch.ray_of(ray.pixel, origin);
    march_ray(batch.march, origin, line.direction, 0.5f, [&](int j, float distance) {
      const int32_t row = ray.first + j - rows.first;
      if (row < begin || row >= end) return;
      unit_position(batch.march, origin, line.direction, distance, positions + 3 * row);
      batch.owners[row] = static_cast<int32_t>(i);
    });
  }
};

// For every row and gate: what drives the frame.
struct SpreadDrive {
  StageBatch batch;
  float *condition, *expression;  // [n, C], [n, E]

  SYNCTALK_HD void operator()(int64_t i) const {
    const int64_t row = i / batch.n_gates;
    const int gate = static_cast<int>(i % batch.n_gates), n_expression = batch.n_gates - batch.n_condition;
    const float value = batch.frame_at(batch.rays[batch.owners[row]].pixel).drive[gate];
    if (gate < batch.n_condition)
      condition[row * batch.n_condition + gate] = value;
    else
      expression[row * n_expression + gate - batch.n_condition] = value;
  }
};

// For every ray: the weights of its samples.
struct WeighSamples {
  StageBatch batch;
  StageRows rows;
  const float* log_density;  // [n]

  SYNCTALK_HD void operator()(int64_t i) const {
    StageRay& ray = batch.rays[i];
    for (int32_t row = rows.begin(ray); row < rows.end(ray); ++row) {
      batch.weights[row] = 0.0f;
      if (ray.transmittance < LEAST_TRANSMITTANCE) continue;
      const float density = batch.density_scale * expf(lesser(log_density[row], batch.max_log_density));
      const float kept = expf(-density * batch.march.step);
      batch.weights[row] = ray.transmittance * (1.0f - kept);
      ray.transmittance *= kept;
    }
  }
};

// For every ray and value: the weighted sum along the ray.
struct AddValues {
  StageBatch batch;
  StageRows rows;
  const float* values;  // [n, n_values]

  SYNCTALK_HD void operator()(int64_t i) const {
    const int n_values = batch.n_values();
    const StageRay& ray = batch.rays[i / n_values];
    for (int32_t row = rows.begin(ray); row < rows.end(ray); ++row) {
      batch.accumulated[i] += batch.weights[row] * values[static_cast<int64_t>(row) * n_values + i % n_values];
    }
  }
};

// For every row of the colour network and column of its inputs: a row is a ray, or a sample where colour is not
// deferred.
struct LookAlong {
  StageBatch batch;
  int32_t first_ray;      // of the rows, where they are rays
  const float* features;  // [n, F] of the rows, where they are samples
  float *feature, *direction, *appearance;

  SYNCTALK_HD int n_columns() const { return batch.n_feature + 3 + batch.n_appearance; }

  SYNCTALK_HD void operator()(int64_t i) const {
    const int64_t row = i / n_columns();
    int column = static_cast<int>(i % n_columns());
    const int64_t owner = batch.is_deferred ? first_ray + row : batch.owners[row];
    if (column < batch.n_feature) {
      const float* from =
          batch.is_deferred ? batch.accumulated + owner * batch.n_feature : features + row * batch.n_feature;
      feature[row * batch.n_feature + column] = from[column];
      return;
    }
    column -= batch.n_feature;
    const int32_t pixel = batch.rays[owner].pixel;
    if (column < 3) {
      float origin[3];
      direction[row * 3 + column] = batch.ray_of(pixel, origin).direction[column];
    } else {
      appearance[row * batch.n_appearance + column - 3] = batch.frame_at(pixel).appearance[column - 3];
    }
  }
};

// For every ray: its pixel.
struct BlendRay {
  StageBatch batch;
  int32_t first_ray;
  const float* colour;  // [n, 3], where colour is deferred

  SYNCTALK_HD void operator()(int64_t i) const {
    const StageRay& ray = batch.rays[first_ray + i];
    Rgba head{{0.0f, 0.0f, 0.0f, 1.0f - ray.transmittance}};
    for (int c = 0; c < 3; ++c) {
      head.value[c] =
          batch.is_deferred ? head.value[3] * colour[3 * i + c] : batch.accumulated[3 * (first_ray + i) + c];
    }
    write_pixel(batch.frame_at(ray.pixel), batch.column_of(ray.pixel), batch.row_of(ray.pixel), head);
  }
};

// For every pixel: a head over what the picture shows.
struct PasteHead {
  const Rgba* heads;
  uint8_t* pictures;

  SYNCTALK_HD void operator()(int64_t i) const {
    if (heads[i].value[3] == 0.0f) return;  // clear, whatever its colours: as paste()
    blend_pixel(heads[i].value, pictures + 3 * i, pictures + 3 * i);
  }
};

// Draws batches of pictures; one at a time. Pointers are of the place where it draws.
class Stages {
 public:
  virtual ~Stages() = default;
  const GpuNet& net() const { return pack_.net; }
  int n_condition() const { return n_condition_; }

  // Marches through frames of one size, whose pictures show what is behind; waits for how many rows there will be.
  // Throws std::invalid_argument where they could be too many.
  virtual StageCounts begin(const std::vector<GpuFrame>& frames) = 0;
  // Of samples [first, first + n): what the head's network takes.
  virtual void fill(StageRows rows, float* positions, float* condition, float* expression) = 0;
  // Of the samples that were filled in last: weights from log densities, and sums of the values, in order.
  virtual void weigh(StageRows rows, const float* log_density, const float* values) = 0;
  // What the colour network takes: of rays [first, first + n), or of the samples that were filled in last.
  virtual void look(StageRows rows, const float* features, float* feature, float* direction, float* appearance) = 0;
  // Rays [first, first + n) into the pictures.
  virtual void blend(StageRows rows, const float* colour) = 0;
  // Heads of other origin over pictures.
  virtual void paste(const Rgba* heads, uint8_t* pictures, int64_t n_pixels) = 0;

 protected:
  explicit Stages(const RendererTensors& tensors) : pack_(tensors), n_condition_(tensors.condition) {}

  GpuPack pack_;
  int n_condition_;
};

// On the CPU, one index after the other: for tests.
std::unique_ptr<Stages> host_stages(const RendererTensors&);

}  // namespace synctalk::gpu
