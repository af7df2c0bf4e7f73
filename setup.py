"""Builds the native module with CMake; everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configure and build in a folder that stays, so that a second build compiles only what changed."""

    def build_extension(self, ext: Extension) -> None:
        import cmake
        import ninja
        import pybind11

        is_inplace = bool(self.inplace or self.editable_mode)
        folder = ROOT / "build" / ("native" if is_inplace else "wheel")
        program = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
        options = {
            "CMAKE_MAKE_PROGRAM": str(Path(ninja.BIN_DIR) / "ninja"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "SYNCTALK_CUDA": os.environ.get("SYNCTALK_CUDA", "AUTO"),
            "SYNCTALK_INPLACE": "ON" if is_inplace else "OFF",
        }
        if architectures := os.environ.get("CUDAARCHS"):
            options["CMAKE_CUDA_ARCHITECTURES"] = architectures
        if headers := os.environ.get("TENSORRT_INCLUDE_DIR"):
            options["TENSORRT_INCLUDE_DIR"] = headers
        configure = [program, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"]
        subprocess.run([*configure, *(f"-D{name}={value}" for name, value in options.items())], check=True)
        subprocess.run([program, "--build", str(folder)], check=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        (built,) = folder.glob("_native.*.so")
        _place(built, target)
        for plugin in folder.glob("libsynctalk_tensorrt_*.so"):
            _place(plugin, target.with_name(plugin.name))


def _place(built: Path, target: Path) -> None:
    """Copy, and rename into place: processes that have the old one loaded keep it."""
    new = target.with_name(target.name + ".new")
    shutil.copy2(built, new)
    new.replace(target)


setup(ext_modules=[Extension("synctalk._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
