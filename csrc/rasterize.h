// Z-buffer rasterisation of triangle meshes, and the shading of the synthetic person. Pixel (column, row) is sampled at
// its centre (column + 0.5, row + 0.5); vertices are (x, y in pixels, depth > 0). Rows are independent of each other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace synctalk {

struct Mesh {
  const float* vertices;     // [n_vertices, 3]
  const int32_t* triangles;  // [n_triangles, 3]
  int64_t n_triangles;
  bool perspective;  // attributes vary linearly in space (true) or on the picture (false, orthographic)
};

// Barycentric weights of a picture point, linear on the picture.
inline void weigh(const float* a, const float* b, const float* c, float x, float y, float* weights) {
  const float inverse = 1.0f / ((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]));
  weights[1] = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) * inverse;
  weights[2] = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) * inverse;
  weights[0] = 1.0f - weights[1] - weights[2];
}

// Nearest triangle of every pixel in rows [first_row, end_row): ids (-1: none) and depth (infinite: none), [height,
// width].
inline void rasterize_rows(const Mesh& mesh, int64_t width, int64_t first_row, int64_t end_row, int32_t* ids,
                           float* depth) {
  std::fill(ids + first_row * width, ids + end_row * width, -1);
  std::fill(depth + first_row * width, depth + end_row * width, std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < mesh.n_triangles; ++i) {
    const float* a = mesh.vertices + 3 * mesh.triangles[3 * i];
    const float* b = mesh.vertices + 3 * mesh.triangles[3 * i + 1];
    const float* c = mesh.vertices + 3 * mesh.triangles[3 * i + 2];
    const float low_y = std::min({a[1], b[1], c[1]}), high_y = std::max({a[1], b[1], c[1]});
    if (high_y < first_row + 0.5f || low_y > end_row - 0.5f) continue;
    if (mesh.perspective && std::min({a[2], b[2], c[2]}) <= 1e-6f) continue;
    const float low_x = std::min({a[0], b[0], c[0]}), high_x = std::max({a[0], b[0], c[0]});
    const int64_t x0 = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(low_x - 0.5f)));
    const int64_t x1 = std::min<int64_t>(width - 1, static_cast<int64_t>(std::floor(high_x - 0.5f)));
    const int64_t y0 = std::max<int64_t>(first_row, static_cast<int64_t>(std::ceil(low_y - 0.5f)));
    const int64_t y1 = std::min<int64_t>(end_row - 1, static_cast<int64_t>(std::floor(high_y - 0.5f)));
    if (x0 > x1 || y0 > y1) continue;
    const float area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    if (std::fabs(area) < 1e-12f) continue;
    // Weights and distance are linear on the picture: distance is depth, or minus its inverse in perspective.
    const float inverse = 1.0f / area;
    const float da = mesh.perspective ? -1.0f / a[2] : a[2];
    const float db = (mesh.perspective ? -1.0f / b[2] : b[2]) - da;
    const float dc = (mesh.perspective ? -1.0f / c[2] : c[2]) - da;
    const float slope_b = (c[1] - a[1]) * inverse, slope_c = -(b[1] - a[1]) * inverse;
    for (int64_t y = y0; y <= y1; ++y) {
      const float down = y + 0.5f - a[1];
      const float row_b = -down * (c[0] - a[0]) * inverse, row_c = (b[0] - a[0]) * down * inverse;
      for (int64_t x = x0; x <= x1; ++x) {
        const float across = x + 0.5f - a[0];
        const float wb = row_b + across * slope_b, wc = row_c + across * slope_c;
        if (wb < 0.0f || wc < 0.0f || wb + wc > 1.0f) continue;
        const float distance = da + wb * db + wc * dc;
        const int64_t pixel = y * width + x;
        if (distance < depth[pixel]) {
          depth[pixel] = distance;
          ids[pixel] = static_cast<int32_t>(i);
        }
      }
    }
  }
  if (!mesh.perspective) return;
  for (int64_t pixel = first_row * width; pixel < end_row * width; ++pixel) {
    if (ids[pixel] >= 0) depth[pixel] = -1.0f / depth[pixel];
  }
}

// Attributes [n_vertices, n] of the triangles in ids at one pixel; the caller knows that the pixel is covered.
inline void interpolate(const Mesh& mesh, int32_t id, float x, float y, const float* attributes, int64_t n,
                        float* out) {
  const int32_t* corner = mesh.triangles + 3 * id;
  const float* p[3] = {mesh.vertices + 3 * corner[0], mesh.vertices + 3 * corner[1], mesh.vertices + 3 * corner[2]};
  float w[3];
  weigh(p[0], p[1], p[2], x, y, w);
  if (mesh.perspective) {
    const float v[3] = {w[0] / p[0][2], w[1] / p[1][2], w[2] / p[2][2]};
    const float sum = v[0] + v[1] + v[2];
    for (int k = 0; k < 3; ++k) w[k] = v[k] / sum;
  }
  const float *a = attributes + n * corner[0], *b = attributes + n * corner[1], *c = attributes + n * corner[2];
  for (int64_t k = 0; k < n; ++k) out[k] = w[0] * a[k] + w[1] * b[k] + w[2] * c[k];
}

// What a surface is made of; one row of the material table, all float32.
struct Material {
  float kind;      // 0: surface with a normal; 1: strand (the normal is the strand's tangent)
  float layer;     // texture layer that multiplies the vertex colour, or -1
  float specular;  // strength of the highlight
  float shininess;
  float wrap[3];  // how far light creeps round the terminator, per colour (skin: red most)
};

// Directional lights in camera space (unit, toward the light), linear colours.
struct Lights {
  float key[3], key_colour[3], fill[3], fill_colour[3], rim[3], rim_colour[3], sky[3], ground[3];
};

struct Textures {
  const float* texels;  // [n_layers, size, size, 4]: linear red, green, blue, gloss
  int64_t size;
};

// Vertex attributes read by the shader.
enum Attribute {
  kNormal = 0,
  kPosition = 3,
  kColour = 6,
  kOcclusion = 9,
  kKeyVisibility = 10,
  kUv = 11,
  kAttributes = 13
};

inline float dot3(const float* a, const float* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

inline void normalize3(float* a) {
  const float length = std::sqrt(std::max(dot3(a, a), 1e-20f));
  for (int k = 0; k < 3; ++k) a[k] /= length;
}

inline void sample(const Textures& textures, int64_t layer, float u, float v, float* out) {
  const int64_t n = textures.size;
  const float x = std::clamp(u * n - 0.5f, 0.0f, n - 1.001f), y = std::clamp(v * n - 0.5f, 0.0f, n - 1.001f);
  const int64_t x0 = static_cast<int64_t>(x), y0 = static_cast<int64_t>(y);
  const float fx = x - x0, fy = y - y0;
  const float* top = textures.texels + ((layer * n + y0) * n + x0) * 4;
  const float* low = top + n * 4;
  for (int k = 0; k < 4; ++k) {
    out[k] = (1 - fy) * ((1 - fx) * top[k] + fx * top[4 + k]) + fy * ((1 - fx) * low[k] + fx * low[4 + k]);
  }
}

// Blinn's highlight with Schlick's Fresnel factor, for a surface that faces the light.
inline float highlight(const float* normal, const float* view, const float* light, float shininess) {
  float half[3] = {view[0] + light[0], view[1] + light[1], view[2] + light[2]};
  normalize3(half);
  const float facing = std::max(dot3(normal, half), 0.0f);
  if (shininess * (1.0f - facing) > 12.0f) return 0.0f;  // below e^-12
  const float grazing = 1.0f - std::max(dot3(view, half), 0.0f), squared = grazing * grazing;
  const float fresnel = 0.04f + 0.96f * squared * squared * grazing;
  return std::pow(facing, shininess) * (shininess + 8.0f) / 25.0f * fresnel;
}

inline float strand_highlight(const float* tangent, const float* view, const float* light, float shift, float power) {
  float half[3] = {view[0] + light[0], view[1] + light[1], view[2] + light[2]};
  normalize3(half);
  const float along = dot3(tangent, half) + shift;
  const float across = 1.0f - along * along;  // sine squared
  return across > 0.0f ? std::exp(0.5f * power * std::log(across)) : 0.0f;
}

// Linear colour of one covered pixel from its interpolated attributes.
inline void shade(const Material& material, const Lights& lights, const Textures& textures, const float* at,
                  float* out) {
  float normal[3] = {at[0], at[1], at[2]};
  normalize3(normal);
  float view[3] = {-at[kPosition], -at[kPosition + 1], -at[kPosition + 2]};
  normalize3(view);
  float albedo[4] = {at[kColour], at[kColour + 1], at[kColour + 2], 1.0f};
  if (material.layer >= 0) {
    float texel[4];
    sample(textures, static_cast<int64_t>(material.layer), at[kUv], at[kUv + 1], texel);
    for (int k = 0; k < 3; ++k) albedo[k] *= texel[k];
    albedo[3] = texel[3];
  }
  const float open = std::clamp(at[kOcclusion], 0.0f, 1.0f), lit = std::clamp(at[kKeyVisibility], 0.0f, 1.0f);
  if (material.kind == 1.0f) {
    float shine[3];
    const float* light[3] = {lights.key, lights.fill, lights.rim};
    const float* colour[3] = {lights.key_colour, lights.fill_colour, lights.rim_colour};
    for (int k = 0; k < 3; ++k) out[k] = 0.45f * open * (lights.sky[k] + 0.4f * lights.ground[k]) * albedo[k];
    for (int i = 0; i < 3; ++i) {
      const float along = dot3(normal, light[i]);
      const float seen = i == 0 ? lit : open;
      const float diffuse = 0.55f * std::sqrt(std::max(1.0f - along * along, 0.0f)) * seen;
      const float sharp = material.specular * strand_highlight(normal, view, light[i], -0.08f, material.shininess);
      const float broad =
          material.specular * strand_highlight(normal, view, light[i], 0.10f, 0.3f * material.shininess);
      for (int k = 0; k < 3; ++k) {
        shine[k] = 0.10f * sharp + 0.9f * broad * albedo[k];
        out[k] += colour[i][k] * (diffuse * albedo[k] + shine[k] * seen);
      }
    }
    return;
  }
  const float key = dot3(normal, lights.key), fill = dot3(normal, lights.fill), rim = dot3(normal, lights.rim);
  const float gloss = material.specular * albedo[3];
  const auto shine = [&](float facing, const float* light, float seen) {
    return facing > 0 ? gloss * seen * highlight(normal, view, light, material.shininess) : 0.0f;
  };
  const float key_shine = shine(key, lights.key, lit), fill_shine = shine(fill, lights.fill, open);
  const float rim_shine = shine(rim, lights.rim, open);
  const float log_open = std::log(open + 1e-6f), log_lit = std::log(lit + 1e-6f);
  const float up = 0.5f - 0.5f * normal[1];  // camera y points down
  for (int k = 0; k < 3; ++k) {
    const float w = material.wrap[k];
    // A red wrap lets light bleed into shadow and into creases as it does under skin.
    const float bleed = std::exp((1.0f - 0.6f * w) * log_open), soft_lit = std::exp((1.0f - 0.6f * w) * log_lit);
    const auto diffuse = [w](float facing) {
      const float wrapped = std::max((facing + w) / (1.0f + w), 0.0f);
      return wrapped * wrapped * (1.0f - w) + wrapped * w;
    };
    const auto plain = [&](float facing) { return w > 0 ? diffuse(facing) : std::max(facing, 0.0f); };
    float light = lights.key_colour[k] * plain(key) * soft_lit + lights.fill_colour[k] * plain(fill) * bleed;
    light += lights.rim_colour[k] * plain(rim) * bleed;
    light += bleed * (up * lights.sky[k] + (1.0f - up) * lights.ground[k]);
    out[k] = albedo[k] * light + key_shine * lights.key_colour[k] + fill_shine * lights.fill_colour[k] +
             rim_shine * lights.rim_colour[k];
  }
}

}  // namespace synctalk
