"""Times of the training operators on the GPU, those of tiny-cuda-nn's grid beside ours where it is installed."""

from __future__ import annotations

import torch
from gpu_roof import Machine, Work, milliseconds, row
from synctalk.errors import BackendError
from synctalk.spec import PLANES, FieldSpec, GridSpec
from synctalk_trainer import operators

N_SAMPLES = 1 << 20
N_RAYS = 1 << 18
FLOAT = 4


def grid_rows(grid: GridSpec, machine: Machine) -> list[dict[str, object]]:
    """Encoding forward and backward (gradient of the tables)."""
    generator = torch.Generator("cuda").manual_seed(0)
    positions = torch.rand(N_SAMPLES, 3, device="cuda", generator=generator)
    tables = torch.rand(
        3, grid.n_entries, grid.n_channels, device="cuda", generator=generator, requires_grad=True
    )
    encoding = operators.grid_encode(positions, tables, grid)
    ones = torch.ones_like(encoding)
    # Positions in, encoding out, tables once; backward the same with gradients.
    work = Work(FLOAT * (positions.numel() + encoding.numel() + tables.numel()), 4 * encoding.numel())
    rows = [
        row(
            "grid_encode",
            milliseconds(lambda: operators.grid_encode(positions, tables.detach(), grid)),
            work,
            machine,
        ),
        row(
            "grid_encode_backward",
            milliseconds(lambda: encoding.backward(ones, retain_graph=True)),
            work,
            machine,
        ),
    ]
    try:
        encodings = operators.tiny_cuda_encodings(grid).cuda()
    except BackendError as error:
        print(f"not measured beside ours: {error}")
        return rows

    def tiny() -> torch.Tensor:
        pairs = zip(encodings, PLANES, strict=True)
        return torch.cat([encode(positions[:, list(axes)]) for encode, axes in pairs], dim=-1)

    theirs = tiny()
    gradient = torch.ones_like(theirs)
    with torch.no_grad():
        forward = milliseconds(tiny)
    backward = milliseconds(lambda: theirs.backward(gradient, retain_graph=True))
    return [
        *rows,
        row("tiny-cuda-nn grid_encode", forward, work, machine),
        row("tiny-cuda-nn grid_encode_backward", backward, work, machine),
    ]


def ray_rows(spec: FieldSpec, machine: Machine) -> list[dict[str, object]]:
    """Marching, compositing forward and backward."""
    generator = torch.Generator("cuda").manual_seed(0)
    targets = (torch.rand(N_RAYS, 3, device="cuda", generator=generator) - 0.5) * 0.24
    origins = torch.tensor([0.0, 0.0, 1.0], device="cuda").repeat(N_RAYS, 1)
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    jitter = torch.full((N_RAYS,), 0.5, device="cuda")
    g = spec.occupancy_resolution
    bits = (torch.rand(g**3 // 8, device="cuda", generator=generator) < 0.3).to(torch.uint8)
    samples = operators.march_cuda(origins, directions, jitter, bits, g, spec, spec.step_m)
    n = len(samples.positions)
    density = torch.rand(n, device="cuda", generator=generator, requires_grad=True)
    feature = torch.rand(n, spec.feature, device="cuda", generator=generator, requires_grad=True)
    composited = operators.composite(density, feature, samples.offsets, spec.step_m)
    total = composited[0].sum() + composited[1].sum()
    march = Work(FLOAT * (7 * N_RAYS + 5 * n) + bits.numel())
    values = Work(FLOAT * n * (2 + spec.feature), n * spec.feature)
    return [
        row(
            "march",
            milliseconds(
                lambda: operators.march_cuda(origins, directions, jitter, bits, g, spec, spec.step_m)
            ),
            march,
            machine,
        ),
        row(
            "composite",
            milliseconds(
                lambda: operators.composite(density.detach(), feature.detach(), samples.offsets, spec.step_m)
            ),
            values,
            machine,
        ),
        row(
            "composite_backward",
            milliseconds(lambda: total.backward(retain_graph=True)),
            Work(2 * values.bytes, 2 * values.multiply_adds),
            machine,
        ),
    ]
