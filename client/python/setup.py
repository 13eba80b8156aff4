"""Makes the stubs of the public API when the package is built."""

import re
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
REPOSITORY_PROTOS = HERE.parent.parent / "proto"
PACKED_PROTOS = HERE / "proto"  # of a source distribution
STUBS = HERE / "gma_client" / "_proto"


def make_stubs() -> None:
    """Writes gma_client/_proto from the .proto files of the repository or the distribution."""
    # Not grpc_tools.protoc: it needs pkg_resources, which new versions of setuptools have not.
    from grpc_tools import _protoc_compiler

    protos = REPOSITORY_PROTOS if (REPOSITORY_PROTOS / "gma" / "v1").is_dir() else PACKED_PROTOS
    names = sorted(path.name for path in (protos / "gma" / "v1").glob("*.proto"))
    if not names:
        raise FileNotFoundError(f"no .proto files in {protos / 'gma' / 'v1'}")
    with tempfile.TemporaryDirectory() as made:
        arguments = ["protoc", f"--proto_path={protos}"]
        arguments += [f"--{kind}_out={made}" for kind in ("python", "pyi", "grpc_python")]
        arguments += [f"gma/v1/{name}" for name in names]
        if _protoc_compiler.run_main([argument.encode() for argument in arguments]) != 0:
            raise RuntimeError("protoc failed")
        shutil.rmtree(STUBS, ignore_errors=True)
        STUBS.mkdir(parents=True)
        (STUBS / "__init__.py").write_text('"""Generated from proto/gma/v1."""\n')
        for path in (Path(made) / "gma" / "v1").iterdir():
            # All stubs lie in one folder, whatever else of the name `gma` is installed.
            text = re.sub(r"^from gma\.v1 import", "from . import", path.read_text(), flags=re.M)
            (STUBS / path.name).write_text(text)


class BuildWithStubs(build_py):
    """Makes the stubs first."""

    def run(self) -> None:
        """Builds the package."""
        make_stubs()
        super().run()


class PackProtos(sdist):
    """Puts the .proto files into the source distribution."""

    def run(self) -> None:
        """Makes the distribution."""
        if (REPOSITORY_PROTOS / "gma" / "v1").is_dir():
            shutil.rmtree(PACKED_PROTOS, ignore_errors=True)
            shutil.copytree(REPOSITORY_PROTOS / "gma", PACKED_PROTOS / "gma")
        super().run()


# The folder has to be there when setuptools looks at the package, before anything is built.
STUBS.mkdir(exist_ok=True)
setup(cmdclass={"build_py": BuildWithStubs, "sdist": PackProtos})
