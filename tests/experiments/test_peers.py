"""Peers: what each way changes, what a race measures, and what the page says of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from autockpt.command.cli import _app
from autockpt.experiments.peers import measure
from autockpt.experiments.peers.measure import Measured, Race, Rules, race
from autockpt.experiments.peers.models import PEER_MODELS, PeerModel, built
from autockpt.experiments.peers.page import PeerResults, to_markdown
from autockpt.experiments.peers.ways import copied, ways_of
from autockpt.experiments.results import Results
from autockpt.experiments.side_by_side import Trainer
from autockpt.zoo.example import Example


def _tiny() -> Example:
    import transformers as hf

    config = hf.OPTConfig(
        vocab_size=32,
        hidden_size=16,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=32,
        word_embed_proj_dim=16,
        attn_implementation="sdpa",
    )
    ids = torch.randint(4, 32, (4, 32))
    kwargs = {"input_ids": ids, "labels": ids, "use_cache": False}
    return Example(model=hf.OPTForCausalLM(config), kwargs=kwargs)


TINY = PeerModel(title="Tiny", layers="model.decoder.layers", build=_tiny)
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_models_of_the_page_can_be_built_with_their_layers() -> None:
    for model in PEER_MODELS.values():
        example = built(model)
        assert example.model.training
        assert len(list(ways_of(model, example))) >= 3
    same = built(model).model.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in example.model.state_dict().items())


def test_each_way_trains_the_same_in_less_memory() -> None:
    eager = Trainer(copied(built(TINY)))
    torch.manual_seed(0)
    loss = eager.step()
    eager_bytes = eager.peak_bytes()
    peaks = {}
    for way in ways_of(TINY, built(TINY)):
        if way.name.endswith((" 2 segments", " 3 segments", " 0.5")):
            continue
        trainer = Trainer(way.apply(built(TINY)))
        torch.manual_seed(0)
        with way.compiling():
            first = trainer.step()
        assert torch.allclose(first, loss, rtol=0.1)  # compiled dropout draws other numbers
        peaks[way.name] = trainer.peak_bytes()
    torch.compiler.reset()
    every, second, fourth = (
        peaks[f"Hugging Face, every {which}layer"] for which in ("", "second ", "fourth ")
    )
    assert every < second < fourth < eager_bytes
    assert peaks["`checkpoint_sequential`, 4 segments"] < eager_bytes
    assert peaks["`activation_memory_budget` 0"] < eager_bytes


def test_a_race_is_run_at_the_peak_of_the_peer() -> None:
    way = next(iter(ways_of(TINY, built(TINY))))
    found = race(TINY, way, Rules(num_rounds=3, time_limit_s=1), "key")
    assert found.way == "Hugging Face, every layer"
    assert found.peer.is_same
    assert len(found.peer.times) == 3
    assert found.peer.peak_bytes < found.eager_peak_bytes
    if found.ours is None:
        assert found.least_bytes > found.peer.peak_bytes
    else:
        assert found.ours.is_same
        assert found.ours.peak_bytes <= found.peer.peak_bytes


def _race(**changes: object) -> Race:
    peer = Measured(peak_bytes=50 * 2**20, times=(1.3, 1.4, 1.5), is_same=True)
    ours = Measured(peak_bytes=49 * 2**20, times=(1.1, 1.1, 1.2), is_same=True)
    values = {
        "key": "k",
        "model": "OPT",
        "way": "every layer",
        "eager_peak_bytes": 80 * 2**20,
        "eager_s": 0.1,
        "peer": peer,
        "ours": ours,
        "note": "planned +9%",
    }
    return Race(**{**values, **changes})


def test_the_page_has_every_race_and_where_we_are_not_ahead() -> None:
    slower = Measured(peak_bytes=49 * 2**20, times=(1.6, 1.6, 1.6), is_same=True)
    inexact = Measured(
        peak_bytes=50 * 2**20, times=(1.2,) * 3, is_same=False, what_differs="buffers"
    )
    races = [
        _race(),
        _race(way="another", ours=slower),
        _race(way="leaner", ours=None, least_bytes=60 * 2**20, note=""),
        _race(way="compiled, 1", peer=inexact),
    ]
    page = to_markdown(races, {"torch": "9"}, num_rounds=3)
    assert "| every layer | 50.0 | x1.40 (1.35 to 1.45) | yes | 49.0 | x1.10" in page
    assert "| 0.25 | planned +9% |" in page
    behind = page[page.index("## Where we are not ahead") : page.index("## OPT")]
    assert "OPT, another: our step takes x1.60, the peer's x1.40" in behind
    assert "OPT, leaner: we do not reach 50.0 MiB; our least is 60.0 MiB" in behind
    assert "every layer" not in behind
    assert "match eager's bits in 3 of 4 races; steps of peers in 3" in page
    assert "Not bit-equal to eager: compiled" in page
    assert "no: buffers" in page


def test_races_are_kept_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []

    def counted(model: PeerModel, way: object, rules: Rules, key: str) -> Race:
        run.append(key)
        return _race(key=key, model=model.title, way=str(way))

    ways = list(ways_of(TINY, built(TINY)))[:2]
    monkeypatch.setattr("autockpt.command.tasks.peers.race", counted)
    monkeypatch.setattr("autockpt.command.tasks.peers.chosen_ways", lambda _: ways)
    args = ("bench", "peers", "--models", "opt, bert", "--output", str(tmp_path))
    for count in (4, 4):
        result = CliRunner().invoke(_app, args)
        assert result.exit_code == 0, result.output
        assert len(run) == count
    assert "## OPT" in (tmp_path / "peers.md").read_text()
    assert Results(tmp_path, Race).find(Race, run[0]) is not None
    answer = CliRunner().invoke(_app, (*args, "--json", "-"))
    written = msgspec.json.decode(answer.stdout, type=PeerResults)
    assert [race.key for race in written.races] == run
    assert written.num_rounds == 11


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("peers", "--models", "opt,nobody"), "unknown model 'nobody'; peers has gpt2"),
        (("x.toml", "--models", "opt"), "--models is for autockpt bench peers"),
    ],
)
def test_wrong_arguments_are_one_line(args: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(_app, ("bench", *args, "--output", str(tmp_path / "out")))
    assert result.exit_code == 2
    assert message in result.stderr
    assert measure.Race is Race
