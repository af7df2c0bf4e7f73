// The stages on the GPU: what they do is queued on the queue's stream.
#pragma once

#include "renderer_cuda.h"
#include "stages.h"

namespace synctalk::cuda {

std::unique_ptr<gpu::Stages> stages(const RendererTensors&, std::shared_ptr<Queue> queue);

}  // namespace synctalk::cuda
