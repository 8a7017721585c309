"""What the names of an experiment stand for: models, methods, a cost model and devices."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from autockpt.command.grammar import checks
from autockpt.command.grammar.options import BatchedModelOptions, Size
from autockpt.command.targets.environment import environment
from autockpt.command.targets.method import load_method
from autockpt.command.targets.target import elsewhere, load_cost, load_function, load_step
from autockpt.experiments.run import Sources
from autockpt.experiments.spec import Experiment, Model
from autockpt.zoo import Example


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of an experiment.

    Attributes:
        folder: Where its file is; paths in it begin there.
    """

    folder: Path

    def checked(self, experiment: Experiment) -> Sources:
        """Returns what the names stand for; wrong ones fail before anything is built.

        Raises:
            TargetError: A name leads to no model, function or file.
            ValueError: A method, a cost model or a device is unknown, or an option of a model.
        """
        devices = {name: elsewhere(name) for name in experiment.devices}
        for model in experiment.models:
            target = self.place(model.target)
            for device in experiment.devices:
                self._options(model, device).check(target)
            for name in (target, self._loss(model)):
                if name is not None and ":" in name and not name.startswith(("zoo:", "hf:")):
                    load_function(name)
        methods = {}
        for name in experiment.methods:
            checks.check_method(self.place(name))
            methods[name] = load_method(self.place(name))
        cost = None if experiment.cost is None else load_cost(self.place(experiment.cost))
        # Now, since a file that changes while the experiment runs is not what runs.
        names = [*experiment.methods, *filter(None, [experiment.cost])]
        for model in experiment.models:
            names += filter(None, [model.target, model.loss])
        return Sources(
            build=self.build,
            methods=methods,
            cost=cost,
            device=devices.__getitem__,
            version_of={name: self.version_of(name) for name in names}.__getitem__,
            environment=environment(),
        )

    def place(self, name: str) -> str:
        """Returns a name with its path from here, if it has one."""
        path, separator, function = name.rpartition(":")
        is_relative = separator and path.endswith(".py") and not Path(path).is_absolute()
        return f"{self.folder / path}:{function}" if is_relative else name

    def version_of(self, name: str) -> str:
        """Returns a hash of the file that a name leads to; empty if that is none."""
        path = Path(self.place(name).rpartition(":")[0])
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".py" else ""

    def build(self, model: Model, device: str) -> Example:
        """Returns a model on a device, with its loss."""
        return load_step(self.place(model.target), self._options(model, device)).to_run()

    def _loss(self, model: Model) -> str | None:
        return None if model.loss is None else self.place(model.loss)

    def _options(self, model: Model, device: str) -> BatchedModelOptions:
        options = BatchedModelOptions(
            device=device,
            size=Size(model.size),
            batch=model.batch,
            loss=self._loss(model),
            seq=model.seq,
            dtype=model.dtype,
            autocast=model.autocast,
            attention=model.attention,
            lora=model.lora,
        )
        if options.is_elsewhere or model.target.startswith("zoo:"):
            return options
        # Configurations are built without data, and functions make their own models.
        return dataclasses.replace(options, device=None)
