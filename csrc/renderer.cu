#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "gpu_program.h"
#include "kernels_cuda.h"
#include "renderer_cuda.h"

namespace synctalk::cuda {
namespace {

using gpu::GpuDepths;
using gpu::GpuFrame;
using gpu::GpuNet;
using gpu::GpuScratch;
using gpu::THREADS;
using gpu::WARPS;
using gpu::Word;

constexpr int kLanes = 3;        // batches in flight
constexpr int kMostFrames = 64;  // of one launch
constexpr int kPrepareThreads = 128;
constexpr size_t kPlainSharedBytes = 48 << 10;  // what a kernel may have without asking

// See HostBlock.
class DeviceBlock {
 public:
  template <class T>
  struct Private {
    T own;
    SYNCTALK_HD T& operator[](int) { return own; }
  };

  SYNCTALK_HD DeviceBlock(Word* memory, int* warp_sums) : memory_(memory), warp_sums_(warp_sums) {}

  SYNCTALK_HD Word* memory() const { return memory_; }

  template <class Body>
  SYNCTALK_HD void threads(Body body) const {
#ifdef __CUDA_ARCH__
    body(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }

  template <class Body>
  SYNCTALK_HD void warps(Body body) const {
#ifdef __CUDA_ARCH__
    body(DeviceWarp{static_cast<int>(threadIdx.x) / WARP});
    __syncthreads();
#endif
  }

  template <class Is>
  SYNCTALK_HD int count(Is is) const {
#ifdef __CUDA_ARCH__
    return __syncthreads_count(is(static_cast<int>(threadIdx.x)));
#else
    return 0;
#endif
  }

  SYNCTALK_HD int offsets(Private<int>& counts, Private<int>& first) const {
#ifdef __CUDA_ARCH__
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    int sum = counts.own;  // of the lanes up to this one
    for (int distance = 1; distance < WARP; distance *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += before;
    }
    if (lane == WARP - 1) warp_sums_[warp] = sum;
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < WARPS; ++w) {
      if (w < warp) before += warp_sums_[w];
      all += warp_sums_[w];
    }
    __syncthreads();  // the next call writes the sums
    first.own = before + sum - counts.own;
    return all;
#else
    return 0;
#endif
  }

 private:
  Word* memory_;
  int* warp_sums_;
};

static_assert(sizeof(GpuNet) < 3500, "kernel arguments end at 4 KB");
static_assert(sizeof(GpuFrame) % 8 == 0 && sizeof(GpuDepths) == 8);

SYNCTALK_HD GpuScratch scratch_of(const GpuNet& net, uint32_t* gated, GpuDepths* depths, int n_tiles, int frame) {
  return {gated + static_cast<int64_t>(frame) * net.gated.n_words(), depths + static_cast<int64_t>(frame) * n_tiles};
}

// Frames without a width are places of the batch that nobody needs.
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(const __grid_constant__ GpuNet net, const GpuFrame* frames, uint32_t* gated, GpuDepths* depths,
                   int n_tiles) {
  const GpuFrame& frame = frames[blockIdx.y];
  const int item = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (frame.width == 0 || item >= gpu::n_prepare_items(net)) return;
  gpu::prepare(net, frame, scratch_of(net, gated, depths, n_tiles, static_cast<int>(blockIdx.y)), item);
}

template <class Fields, int BLOCKS>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    render_kernel(const __grid_constant__ GpuNet net, const GpuFrame* frames, uint32_t* gated, GpuDepths* depths,
                  int n_tiles) {
  extern __shared__ Word memory[];
  __shared__ int warp_sums[WARPS];
  const GpuFrame& frame = frames[blockIdx.y];
  if (frame.width == 0) return;
  DeviceBlock block(memory, warp_sums);
  gpu::render_tile<Fields>(block, net, frame, scratch_of(net, gated, depths, n_tiles, static_cast<int>(blockIdx.y)),
                           static_cast<int>(blockIdx.x));
}

using RenderKernel = void (*)(GpuNet, const GpuFrame*, uint32_t*, GpuDepths*, int);

RenderKernel kernel_of(const GpuNet& net, bool is_half) {
  if (!is_half) return render_kernel<gpu::FloatFields, 4>;
  if (gpu::widest_layer(net) <= 64) return render_kernel<gpu::HalfFields<8>, 4>;
  return render_kernel<gpu::HalfFields<16>, 2>;
}

// The smallest power of two that is not below n.
int bucket_of(int n) {
  int bucket = 1;
  while (bucket < n) bucket *= 2;
  return bucket;
}

}  // namespace

std::string why_not() {
  int n = 0;
  const cudaError_t found = cudaGetDeviceCount(&n);
  (void)cudaGetLastError();
  if (found != cudaSuccess || n == 0) {
    return std::string("no NVIDIA GPU can be used (") +
           cudaGetErrorString(found == cudaSuccess ? cudaErrorNoDevice : found) +
           "): look at nvidia-smi, install driver 580 or newer";
  }
  cudaFuncAttributes attributes;
  const cudaError_t loaded = cudaFuncGetAttributes(&attributes, prepare_kernel);
  (void)cudaGetLastError();
  if (loaded == cudaSuccess) return "";
  int device = 0, major = 0, minor = 0;
  (void)cudaGetDevice(&device);
  (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  (void)cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return "this build has no kernels for compute capability " + std::to_string(major) + "." + std::to_string(minor) +
         " (" + cudaGetErrorString(loaded) + "): build with CUDAARCHS=" + std::to_string(10 * major + minor) + "-real";
}

struct CudaRenderer::Lane {
  int width, height, n, n_tiles;
  Memory host_frames, frames, gated, depths;
  std::unique_ptr<Memory> host_plates, plates;  // where plates come from the host
  Event done;
  cudaGraphExec_t graph = nullptr;

  Lane(const GpuNet& net, const LaneKey& key)
      : width(std::get<0>(key)),
        height(std::get<1>(key)),
        n(std::get<2>(key)),
        n_tiles(gpu::tile_columns(width) * gpu::tile_rows(height)),
        host_frames(sizeof(GpuFrame) * n, Memory::Kind::host),
        frames(sizeof(GpuFrame) * n, Memory::Kind::device),
        gated(sizeof(uint32_t) * net.gated.n_words() * n, Memory::Kind::device),
        depths(sizeof(GpuDepths) * n_tiles * n, Memory::Kind::device) {}
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  ~Lane() {
    if (graph) (void)cudaGraphExecDestroy(graph);
  }

  size_t plate_bytes() const { return size_t{3} * width * height; }
};

CudaRenderer::CudaRenderer(const RendererTensors& tensors, bool is_half, bool is_graphed)
    : queue_(std::make_shared<Queue>(current_device())), n_condition_(tensors.condition), is_graphed_(is_graphed) {
  const gpu::GpuPack pack(tensors);
  net_ = pack.net;
  const auto upload = [this](const auto& values) {
    using Value = typename std::decay_t<decltype(values)>::value_type;
    const size_t n_bytes = values.size() * sizeof(Value);
    auto& memory = tensors_.emplace_back(std::make_unique<Memory>(n_bytes, Memory::Kind::device));
    if (n_bytes)
      check(cudaMemcpy(memory->template as<void>(), values.data(), n_bytes, cudaMemcpyHostToDevice), "tensors");
    return memory->template as<Value>();
  };
  net_.quads = upload(pack.quads);
  net_.words = upload(pack.words);
  net_.floats = upload(pack.floats);
  net_.bricks = upload(pack.bricks);
  net_.march.occupancy = upload(pack.occupancy);
  const RenderKernel kernel = kernel_of(net_, is_half);
  kernel_ = reinterpret_cast<const void*>(kernel);
  check(cudaStreamSynchronize(cudaStreamLegacy), "tensors");  // the copies: our stream does not wait for that one
  cudaFuncAttributes attributes;  // asking loads the kernels, which must not happen while a graph is captured
  check(cudaFuncGetAttributes(&attributes, prepare_kernel), "prepare");
  check(cudaFuncGetAttributes(&attributes, kernel_), "render");
  shared_bytes_ = sizeof(Word) * static_cast<size_t>(gpu::space_of(net_, is_half, nullptr).n_words);
  if (shared_bytes_ <= kPlainSharedBytes) return;
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue_->device()), "shared memory");
  if (static_cast<size_t>(most) < shared_bytes_ + 1024) {
    throw std::invalid_argument("a tile of this avatar needs " + std::to_string(shared_bytes_) +
                                " bytes of shared memory, this GPU has " + std::to_string(most) +
                                ": use backend native-cpu for it");
  }
  check(cudaFuncSetAttribute(kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes_)),
        "shared memory");
}

CudaRenderer::~CudaRenderer() {
  // Lanes and tensors may still be in use.
  (void)cudaStreamSynchronize(queue_->stream());
}

CudaRenderer::Lane& CudaRenderer::next_lane(const LaneKey& key) {
  auto& lanes = lanes_[key];
  if (lanes.size() < kLanes) return *lanes.emplace_back(std::make_unique<Lane>(net_, key));
  Lane& lane = *lanes[turn_[key]++ % kLanes];
  lane.done.wait();
  return lane;
}

void CudaRenderer::launch(const Lane& lane, cudaStream_t stream) const {
  const auto n = static_cast<unsigned>(lane.n);
  auto* frames = lane.frames.as<GpuFrame>();
  auto* gated = lane.gated.as<uint32_t>();
  auto* depths = lane.depths.as<GpuDepths>();
  check(cudaMemcpyAsync(frames, lane.host_frames.as<GpuFrame>(), lane.frames.n_bytes(), cudaMemcpyHostToDevice, stream),
        "frames");
  check(cudaMemsetAsync(depths, 0x7f, lane.depths.n_bytes(), stream), "tiles");
  const auto n_items = static_cast<unsigned>(gpu::n_prepare_items(net_));
  prepare_kernel<<<dim3((n_items + kPrepareThreads - 1) / kPrepareThreads, n), kPrepareThreads, 0, stream>>>(
      net_, frames, gated, depths, lane.n_tiles);
  check(cudaGetLastError(), "prepare");
  const auto kernel = reinterpret_cast<RenderKernel>(const_cast<void*>(kernel_));
  kernel<<<dim3(static_cast<unsigned>(lane.n_tiles), n), THREADS, shared_bytes_, stream>>>(net_, frames, gated, depths,
                                                                                           lane.n_tiles);
  check(cudaGetLastError(), "render");
}

// On a stream that nobody else knows: what other threads queue must not become part of the graph.
void CudaRenderer::capture(Lane& lane) const {
  const Queue apart(queue_->device());
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(apart.stream(), cudaStreamCaptureModeThreadLocal), "capture");
  try {
    launch(lane, apart.stream());
  } catch (...) {
    (void)cudaStreamEndCapture(apart.stream(), &graph);
    if (graph) (void)cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(apart.stream(), &graph), "capture, end");
  const cudaError_t made = cudaGraphInstantiate(&lane.graph, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(made, "graph");
}

void CudaRenderer::queue_batch(const GpuFrame* frames, int n, const Plates& plates, Frames& out, int first) {
  Lane& lane = next_lane({out.width, out.height, bucket_of(n)});
  const cudaStream_t stream = queue_->stream();
  const size_t n_pixels = static_cast<size_t>(out.width) * out.height;
  const uint8_t* plate = plates.at ? plates.at + 3 * n_pixels * first : nullptr;
  if (plate && !plates.is_on_device) {
    const size_t n_bytes = lane.plate_bytes() * lane.n;
    if (!lane.plates) {
      lane.host_plates = std::make_unique<Memory>(n_bytes, Memory::Kind::host);
      lane.plates = std::make_unique<Memory>(n_bytes, Memory::Kind::device);
    }
    std::memcpy(lane.host_plates->as<void>(), plate, lane.plate_bytes() * n);
    plate = lane.plates->as<uint8_t>();
    check(cudaMemcpyAsync(lane.plates->as<void>(), lane.host_plates->as<void>(), lane.plate_bytes() * n,
                          cudaMemcpyHostToDevice, stream),
          "plates");
  }
  auto* to = lane.host_frames.as<GpuFrame>();
  for (int i = 0; i < lane.n; ++i) {
    to[i] = i < n ? frames[i] : GpuFrame{};
    if (i >= n) continue;
    const size_t pixel = n_pixels * static_cast<size_t>(first + i);
    to[i].rgba = out.is_heads ? static_cast<gpu::Rgba*>(out.data()) + pixel : nullptr;
    to[i].picture = out.is_heads ? nullptr : static_cast<uint8_t*>(out.data()) + 3 * pixel;
    to[i].plate = plate ? plate + 3 * n_pixels * static_cast<size_t>(i) : nullptr;
  }
  if (is_graphed_) {
    if (!lane.graph) capture(lane);
    check(cudaGraphLaunch(lane.graph, stream), "graph, launch");
  } else {
    launch(lane, stream);
  }
  lane.done.record(stream);
}

std::unique_ptr<Frames> CudaRenderer::render(const std::vector<GpuFrame>& frames, const Plates& plates,
                                             cudaStream_t stream) {
  if (frames.empty()) throw std::invalid_argument("a batch needs a frame");
  const OnDevice on(queue_->device());
  const std::lock_guard<std::mutex> lock(mutex_);
  const int n = static_cast<int>(frames.size());
  auto out = std::make_unique<Frames>(queue_, n, frames[0].width, frames[0].height, plates.at == nullptr);
  if (stream) {
    Event before;
    before.record(stream);
    before.hold_back(queue_->stream());
  }
  for (int first = 0; first < n; first += kMostFrames) {
    queue_batch(frames.data() + first, std::min(kMostFrames, n - first), plates, *out, first);
  }
  out->close();
  if (stream) out->show_to(stream);
  return out;
}

}  // namespace synctalk::cuda
