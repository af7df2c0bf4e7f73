// What the bindings of TensorRT cannot ask of a C++ plugin, asked without a GPU: check_plugin LIBRARY. Exit code 0:
// sound.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "plane_lookup_plugin.h"

namespace {

using namespace nvinfer1;

int failures = 0;

void expect(bool is_true, const char* what) {
  if (is_true) return;
  std::fprintf(stderr, "check_plugin: %s\n", what);
  ++failures;
}

PluginTensorDesc tensor(DataType type, Dims dims) {
  PluginTensorDesc desc{};
  desc.dims = dims;
  desc.type = type;
  desc.format = TensorFormat::kLINEAR;
  return desc;
}

void check_runtime(IPluginV3& plugin, IPluginCreatorV3One& creator, const float* scales, int32_t output_type) {
  auto* runtime = static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  const PluginFieldCollection* kept = runtime->getFieldsToSerialize();
  expect(kept->nbFields == 2, "two fields are serialised");
  for (int32_t i = 0; i < kept->nbFields; ++i) {
    const PluginField& field = kept->fields[i];
    const bool is_scales = std::strcmp(field.name, "scales") == 0;
    expect(is_scales ? field.length == 2 && std::memcmp(field.data, scales, 2 * sizeof(float)) == 0
                     : *static_cast<const int32_t*>(field.data) == output_type,
           "a field's value survives");
  }
  std::unique_ptr<IPluginV3> again(creator.createPlugin("again", kept, TensorRTPhase::kRUNTIME));
  expect(again != nullptr, "serialised fields make a plugin");
  PluginTensorDesc in[7] = {tensor(DataType::kFLOAT, {2, {5, 3}})};
  for (int p = 0; p < 6; ++p) in[1 + p] = tensor(DataType::kHALF, {3, {1, p % 2 ? 9 : 5, p % 2 ? 9 : 5}});
  expect(runtime->onShapeChange(in, 7, nullptr, 1) == 0, "planes of the scales' sizes are taken");
  in[6].dims.d[2] = 8;
  expect(runtime->onShapeChange(in, 7, nullptr, 1) != 0, "a plane of another size is refused");
  expect(runtime->onShapeChange(in, 6, nullptr, 1) != 0, "a missing plane is refused");
}

void check_build(IPluginV3& plugin, DataType output) {
  auto* build = static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
  const DataType inputs[7] = {DataType::kFLOAT, DataType::kHALF, DataType::kHALF, DataType::kHALF,
                              DataType::kHALF,  DataType::kHALF, DataType::kHALF};
  DataType type{};
  expect(build->getOutputDataTypes(&type, 1, inputs, 7) == 0 && type == output, "the output has the type asked for");
  DynamicPluginTensorDesc all[8] = {};
  for (int i = 0; i < 8; ++i) all[i].desc = tensor(i < 7 ? inputs[i] : output, {0, {}});
  for (int i = 0; i < 8; ++i)
    expect(build->supportsFormatCombination(i, all, 7, 1), "the declared types are supported");
  all[1].desc.type = DataType::kFLOAT;
  expect(!build->supportsFormatCombination(1, all, 7, 1), "planes of float32 are refused");
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : nullptr;
  if (library == nullptr) {
    std::fprintf(stderr, "check_plugin: %s\n", argc == 2 ? dlerror() : "usage: check_plugin LIBRARY");
    return 2;
  }
  auto* get_creators = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
  int32_t n_creators = 0;
  auto* creator = static_cast<IPluginCreatorV3One*>(get_creators(n_creators)[0]);
  const float scales[2] = {3.0f, 7.0f};
  for (const int32_t output_type : {1, 10}) {
    const PluginField fields[2] = {{"scales", scales, PluginFieldType::kFLOAT32, 2},
                                   {"output_type", &output_type, PluginFieldType::kINT32, 1}};
    const PluginFieldCollection collection{2, fields};
    std::unique_ptr<IPluginV3> made(creator->createPlugin("first", &collection, TensorRTPhase::kBUILD));
    expect(made != nullptr, "fields make a plugin");
    if (made == nullptr) continue;
    std::unique_ptr<IPluginV3> plugin(made->clone());
    made.reset();  // the copy must stand alone
    check_runtime(*plugin, *creator, scales, output_type);
    check_build(*plugin, output_type == 10 ? DataType::kHALF : DataType::kFLOAT);
  }
  return failures == 0 ? 0 : 1;
}
