#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "rasterize.h"
#include "threads.h"

namespace py = pybind11;

namespace synctalk {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Ints = py::array_t<int32_t, py::array::c_style>;

void expect(bool is_right, const char* message) {
  if (!is_right) throw py::value_error(message);
}

Mesh borrow_mesh(const Floats& vertices, const Ints& triangles, bool perspective) {
  expect(vertices.ndim() == 2 && vertices.shape(1) == 3, "vertices: expected [V, 3] float32");
  expect(triangles.ndim() == 2 && triangles.shape(1) == 3, "triangles: expected [T, 3] int32");
  const int32_t* corner = triangles.data();
  for (int64_t i = 0; i < triangles.size(); ++i) {
    expect(corner[i] >= 0 && corner[i] < vertices.shape(0), "triangles: an index lies outside of the vertices");
  }
  return {vertices.data(), corner, triangles.shape(0), perspective};
}

void rasterize(Floats vertices, Ints triangles, Ints ids, Floats depth, bool perspective) {
  const Mesh mesh = borrow_mesh(vertices, triangles, perspective);
  expect(ids.ndim() == 2 && depth.ndim() == 2 && ids.shape(0) == depth.shape(0) && ids.shape(1) == depth.shape(1),
         "ids and depth: expected [H, W] int32 and float32");
  int32_t* id_data = ids.mutable_data();
  float* depth_data = depth.mutable_data();
  const int64_t height = ids.shape(0), width = ids.shape(1);
  py::gil_scoped_release release;
  // Every piece goes through all triangles: few pieces.
  parallel_for(height, (height + 1) / 2,
               [&](int64_t first, int64_t end) { rasterize_rows(mesh, width, first, end, id_data, depth_data); });
}

void interpolate_attributes(Floats vertices, Ints triangles, Ints ids, Floats attributes, Floats out,
                            bool perspective) {
  const Mesh mesh = borrow_mesh(vertices, triangles, perspective);
  expect(attributes.ndim() == 2 && attributes.shape(0) == vertices.shape(0), "attributes: expected [V, A] float32");
  const int64_t n = attributes.shape(1), height = ids.shape(0), width = ids.shape(1);
  expect(out.ndim() == 3 && out.shape(0) == height && out.shape(1) == width && out.shape(2) == n,
         "out: expected [H, W, A] float32");
  const int32_t* id = ids.data();
  float* target = out.mutable_data();
  const float* source = attributes.data();
  py::gil_scoped_release release;
  parallel_for(height * width, 16 * width, [&](int64_t first, int64_t end) {
    for (int64_t pixel = first; pixel < end; ++pixel) {
      if (id[pixel] < 0) continue;
      interpolate(mesh, id[pixel], pixel % width + 0.5f, pixel / width + 0.5f, source, n, target + pixel * n);
    }
  });
}

void shade_picture(Floats vertices, Ints triangles, Ints ids, Floats attributes, Ints materials, Floats table,
                   Floats lights, Floats textures, Floats out) {
  const Mesh mesh = borrow_mesh(vertices, triangles, true);
  const int64_t height = ids.shape(0), width = ids.shape(1);
  expect(attributes.ndim() == 2 && attributes.shape(0) == vertices.shape(0) && attributes.shape(1) == kAttributes,
         "attributes: expected [V, 13] float32");
  expect(materials.ndim() == 1 && materials.shape(0) == triangles.shape(0), "materials: expected [T] int32");
  expect(table.ndim() == 2 && table.shape(1) * sizeof(float) == sizeof(Material), "table: expected [K, 7] float32");
  expect(lights.size() * sizeof(float) == sizeof(Lights), "lights: expected [8, 3] float32");
  expect(textures.ndim() == 4 && textures.shape(1) == textures.shape(2) && textures.shape(3) == 4,
         "textures: expected [L, S, S, 4] float32");
  expect(out.ndim() == 3 && out.shape(0) == height && out.shape(1) == width && out.shape(2) == 3,
         "out: expected [H, W, 3] float32");
  const auto* rows = reinterpret_cast<const Material*>(table.data());
  for (int64_t i = 0; i < materials.size(); ++i) {
    expect(materials.data()[i] >= 0 && materials.data()[i] < table.shape(0), "materials: no such row of the table");
  }
  for (int64_t i = 0; i < table.shape(0); ++i) {
    expect(rows[i].layer < textures.shape(0), "table: no such texture layer");
  }
  const auto& light = *reinterpret_cast<const Lights*>(lights.data());
  const Textures layers{textures.data(), textures.shape(1)};
  const int32_t *id = ids.data(), *material = materials.data();
  float* target = out.mutable_data();
  const float* source = attributes.data();
  py::gil_scoped_release release;
  parallel_for(height * width, 16 * width, [&](int64_t first, int64_t end) {
    for (int64_t pixel = first; pixel < end; ++pixel) {
      if (id[pixel] < 0) continue;
      float at[kAttributes];
      interpolate(mesh, id[pixel], pixel % width + 0.5f, pixel / width + 0.5f, source, kAttributes, at);
      shade(rows[material[id[pixel]]], light, layers, at, target + 3 * pixel);
    }
  });
}

}  // namespace

void bind_rasterize(py::module_& module) {
  using py::arg;
  module.def("rasterize", &rasterize, arg("vertices").noconvert(), arg("triangles").noconvert(), arg("ids").noconvert(),
             arg("depth").noconvert(), arg("perspective") = true,
             "Writes the nearest triangle (-1: none) and its depth for every pixel centre.");
  module.def("interpolate_attributes", &interpolate_attributes, arg("vertices").noconvert(),
             arg("triangles").noconvert(), arg("ids").noconvert(), arg("attributes").noconvert(),
             arg("out").noconvert(), arg("perspective") = true,
             "Writes the attributes of covered pixels, perspective-correct; other pixels keep what they hold.");
  module.def("shade_picture", &shade_picture, arg("vertices").noconvert(), arg("triangles").noconvert(),
             arg("ids").noconvert(), arg("attributes").noconvert(), arg("materials").noconvert(),
             arg("table").noconvert(), arg("lights").noconvert(), arg("textures").noconvert(), arg("out").noconvert(),
             "Writes the linear colour of covered pixels; see rasterize.h for attributes, materials and lights.");
}

}  // namespace synctalk
