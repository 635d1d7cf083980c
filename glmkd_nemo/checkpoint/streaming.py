"""Sharded checkpoints written and read one tensor at a time, so that a model of any size fits.

Megatron-Core's format is PyTorch's distributed checkpoint and two small files; PyTorch's own writer
and reader ask a planner for each tensor, and the planners here have only one at hand.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.cached_metadata_filesystem_reader import (
    CachedMetadataFileSystemReader,
)
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    BytesIOWriteData,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from glmkd_nemo.checkpoint.sharded import write_listing

Places = dict[str, ShardedTensor]
Objects = dict[str, io.BytesIO]


class _Streaming(SavePlanner):
    """Has PyTorch's writer ask for one tensor after the other."""

    def __init__(self, wanted: Places, objects: Objects, read: Callable[[str], Tensor]) -> None:
        self.read, self.objects = read, objects
        self._last = torch.empty(0)
        self.names = {(p.key, torch.Size(p.global_offset)): n for n, p in wanted.items()}
        self.items = [_item(place) for place in wanted.values()]
        self.items += [_bytes_item(name, data) for name, data in objects.items()]

    def set_up_planner(
        self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """Nothing: there is no state dict."""

    def create_local_plan(self) -> SavePlan:
        return SavePlan(self.items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        if write_item.tensor_data is None:
            return self.objects[write_item.index.fqn]
        assert write_item.index.offset is not None
        # PyTorch's writer keeps a reference to all that it has written: take the data from it
        self._last.untyped_storage().resize_(0)
        tensor = self.read(self.names[write_item.index.fqn, write_item.index.offset])
        self._last = tensor.reshape(write_item.tensor_data.chunk.sizes).clone()
        return self._last


def _item(place: ShardedTensor) -> WriteItem:
    return WriteItem(
        index=MetadataIndex(place.key, torch.Size(place.global_offset)),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=_chunk(place),
            properties=TensorProperties(dtype=place.dtype),
            size=torch.Size(place.global_shape),
        ),
    )


def _bytes_item(name: str, data: io.BytesIO) -> WriteItem:
    size = BytesIOWriteData(len(data.getbuffer()))
    return WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO, bytes_io_data=size)


def _chunk(place: ShardedTensor) -> ChunkStorageMetadata:
    sizes = torch.Size((1,) * place.prepend_axis_num + tuple(place.local_shape))
    return ChunkStorageMetadata(torch.Size(place.global_offset), sizes)


def write_sharded(
    folder: Path, wanted: Places, objects: Objects, read: Callable[[str], Tensor]
) -> None:
    """Writes a checkpoint that Megatron-Core loads, by PyTorch's writer, tensor by tensor.

    Args:
        folder: exists, and is empty.
        wanted: what to write, with the dtypes of the file.
        objects: see :func:`objects`.
        read: the data of a name.

    Raises:
        OSError: the disk is full or not writable.
    """
    writer, planner = dcp.FileSystemWriter(folder), _Streaming(wanted, objects, read)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.save({}, storage_writer=writer, planner=planner, no_dist=True)
    torch.save({}, folder / "common.pt")
    save_config(CheckpointingConfig("torch_dist"), str(folder))
    write_listing(folder)


class ShardedReader:
    """Tensors of a sharded checkpoint, one at a time, whatever layout saved it.

    Args:
        folder: of the checkpoint.

    Attributes:
        stored: global shape and dtype of each tensor by its key.
    """

    def __init__(self, folder: Path) -> None:
        self._reader = CachedMetadataFileSystemReader(folder)
        found = self._reader.read_metadata().state_dict_metadata
        tensors = {k: m for k, m in found.items() if isinstance(m, TensorStorageMetadata)}
        self.stored = {k: (m.size, m.properties.dtype) for k, m in tensors.items()}

    def read(self, place: ShardedTensor) -> Tensor:
        """The data of a place with the shape and dtype of the file."""
        wanted = _One(place)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load({}, storage_reader=self._reader, planner=wanted, no_dist=True)
        return wanted.data.reshape(place.local_shape)


class _One(LoadPlanner):
    """Has PyTorch's reader fill one tensor, from all the shards that have parts of it."""

    def __init__(self, place: ShardedTensor) -> None:
        self.place, self.chunk = place, _chunk(place)
        self.data = torch.empty(self.chunk.sizes, dtype=place.dtype)
        self.stored: Any = None

    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        assert metadata is not None
        self.stored = metadata.state_dict_metadata[self.place.key]

    def create_local_plan(self) -> LoadPlan:
        items = create_read_items_for_chunk_list(self.place.key, self.stored, [self.chunk])
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise AssertionError("a weight is no object")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        return narrow_tensor_by_index(self.data, read_item.dest_offsets, read_item.lengths)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing: it is a view of the data."""
