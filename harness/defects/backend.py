"""A backend with a defect in it: the job's own backend, everything else as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.backends.protocol import Backend, Session
from harness.defects.catalogue import find_defect
from harness.defects.language.model import Fired
from harness.defects.language.plant import plant_language, plant_outside
from harness.defects.plant import PlantedOperator, sites
from harness.defects.runtime import PlantedSession
from harness.defects.stored.emulated import planted_quantized
from harness.defects.stored.engine_file import load_planted_file
from harness.defects.types import (
    OUTSIDE,
    WHOLE,
    Defect,
    Planting,
    Site,
    Unfit,
)
from harness.errors import UnsupportedError
from harness.models.types import Model
from harness.schemes.types import Scheme


class PlantedBackend:
    """Loads what the backend loads, with a defect planted.

    Args:
        backend: any backend for a runtime's defects and those of answers and prompts;
            torch, one that opens graphs, or for stored bytes one that opens files, for
            an operator's.
        planting: the defect and where.
        plugged: defects of plugins.
    """

    def __init__(
        self,
        backend: Backend,
        planting: Planting,
        plugged: Mapping[str, Defect] | None = None,
    ) -> None:
        self._backend = backend
        self.planting = planting
        self.defect = find_defect(planting.defect, plugged)
        #: What was planted where, and how often it fired; of the last load.
        self.planted: dict[str, PlantedOperator | Fired] = {}
        given = planting.strength
        self.strength = self.defect.parameter.catalogue if given is None else given
        own = self.defect.trigger
        self.trigger = own if planting.trigger is None else planting.trigger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def as_variant(self, *, name: str, **options: Any) -> PlantedBackend:
        """The backend's variant with the same defect in it."""
        made: Any = type(self._backend)
        return PlantedBackend(made(name=name, **options), self.planting)

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Load; a reference (`scheme=None`) stays as it is.

        Raises:
            UnsupportedError: the defect cannot be in this backend, or has nothing to
                change under this scheme.
        """
        if scheme is None:
            return self._backend.load(model, None)
        if self.defect.place == "runtime":
            behaviour = self.defect.change(self.strength, self.planting.seed)
            session = self._backend.load(model, scheme)
            return PlantedSession(session, behaviour)
        if self.defect.place in OUTSIDE:
            return self._language(model, scheme)
        if hasattr(self._backend, "open_written"):
            return self._file(model, scheme)
        if self.defect.place == "between":
            return self._between(model, scheme)
        if self.defect.place in WHOLE:
            return self._language(model, scheme)
        if hasattr(self._backend, "open_built"):
            from harness.defects.onnx_graph import load_planted

            return load_planted(
                self._backend, model, scheme, self.defect, self.planting
            )
        session = self._backend.load(model, scheme)
        if not hasattr(session, "module"):
            session.close()
            raise UnsupportedError(
                f"{self.defect.name} cannot be planted in {self._backend.name}: its "
                "layers are not open to us"
            )
        self._hook(session.module, model, scheme)
        return session

    def _file(self, model: Model, scheme: Scheme) -> Session:
        """A file with other bytes in it: the engine itself computes with them."""
        if self.defect.place != "stored":
            raise UnsupportedError(
                f"{self.defect.name} cannot be planted in {self._backend.name}: its "
                "layers are not open to us, only the file that it reads"
            )
        session, names = load_planted_file(
            self._backend, model, scheme, self.defect, self.planting
        )
        self.planted = {name: Fired(1) for name in names}
        return session

    def _plant_stored(self, layer: Any, site: Site) -> None:
        """Other bytes in a layer: its own kernel computes with them."""
        from harness.backends.torch_layers import StoredWeight

        wrong = planted_quantized(site, self.defect, self.strength)
        stored = StoredWeight(wrong)
        layer.stored = stored.to(layer.stored.codes.device)

    def _language(self, model: Model, scheme: Scheme) -> Session:
        """A language model with a defect of none of its operators."""
        outside = self.defect.place in OUTSIDE
        if outside and not hasattr(model, "tokenizer"):
            raise UnsupportedError(
                f"{self.defect.name} is a defect of language models, but {model.name} "
                "takes no prompts"
            )
        session = self._backend.load(model, scheme)
        try:
            if outside:
                planted, counted = plant_outside(
                    session, model, self.defect, self.strength, self.planting.seed
                )
            else:
                planted, counted = plant_language(
                    session, model, self.defect, self.strength, self.trigger
                )
        except UnsupportedError:
            session.close()
            raise
        self.planted = {self.defect.place: counted}
        found: Session = planted
        return found

    def _between(self, model: Model, scheme: Scheme) -> Session:
        """A model whose operators are right, and what lies between them is not."""
        edit = self.defect.change(self.strength)
        # What a protocol does not ask for, some have: a graph, or an open module.
        backend: Any = self._backend
        if hasattr(backend, "open_built"):
            from harness.defects.between.onnx_steps import plant_steps

            built = backend.build(model, scheme)
            try:
                count = plant_steps(built, edit)
            except Unfit as error:
                raise UnsupportedError(
                    f"{self.defect.name} fits nowhere: {error}"
                ) from None
            self.planted = {"between": Fired(count)}
            found: Session = backend.open_built(built, scheme)
            return found
        session: Any = backend.load(model, scheme)
        if not hasattr(session, "module") or session.compiled:
            session.close()
            raise UnsupportedError(
                f"{self.defect.name} cannot be planted in {self._backend.name}: what "
                "it computes between layers is not open to us"
            )
        from harness.defects.between.torch_steps import Planted

        mode = Planted(edit)
        mode.put_in(session.module, [operator.name for operator in model.operators()])
        self.planted = {"between": mode.fired}
        opened: Session = session
        return opened

    def _hook(self, module: Any, model: Model, scheme: Scheme) -> None:
        """Put the planted operators before whoever watches the layers."""
        self.planted = {}
        reason = "the scheme quantizes no operator that was named"
        for site in sites(model.operators(), scheme, self.planting):
            try:
                planted = PlantedOperator(site, self.defect, self.planting)
            except Unfit as error:
                reason = str(error)
                continue
            self.planted[site.operator.name] = planted
            layer = module.get_submodule(site.operator.name)
            if self.defect.place == "stored":
                self._plant_stored(layer, site)
                planted.fired = 1
                continue
            layer.register_forward_hook(_replace(planted), prepend=True)
        if not self.planted:
            raise UnsupportedError(f"{self.defect.name} fits nowhere: {reason}")

    def tolerated(self) -> bool:
        """Whether no more codes were changed than right backends may differ by."""
        planted = [p for p in self.planted.values() if isinstance(p, PlantedOperator)]
        codes, moved = sum(p.codes for p in planted), sum(p.moved for p in planted)
        return bool(codes) and moved <= self.defect.tolerated * codes

    def fired(self) -> tuple[str, ...]:
        """Operators whose output was really changed since the load."""
        return tuple(name for name, entry in self.planted.items() if entry.fired)


def _replace(planted: PlantedOperator) -> Any:
    import torch

    def hook(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        x = inputs[0].detach().cpu().to(torch.float32).numpy()
        y = output.detach().cpu().to(torch.float32).numpy()
        try:
            wrong = planted(x, y)
        except Unfit:
            return output
        found = torch.from_numpy(np.ascontiguousarray(wrong))
        return found.to(device=output.device, dtype=output.dtype)

    return hook
