"""The loop: an ensemble through warm-up, conversion and game, with checkpoints, one loop for every experiment."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from introprior.errors import UserError
from introprior.experiment.run import Member, Run
from introprior.game import losses
from introprior.game.losses import Betas, EncoderStep, Rules
from introprior.game.model import IntroVAE
from introprior.game.priors import Conversion
from introprior.game.randomness import MemberStreams, streams_of
from introprior.operations import signals
from introprior.training import checkpoints
from introprior.training.adam import Adam
from introprior.training.replay import Replay
from introprior.training.watch import Watch

if TYPE_CHECKING:
    from introprior.operations.progress import Progress

PLAYERS = ("encoder", "decoder", "prior")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Control-C, a scheduler, a terminal that is closed."""


class Interrupted(Exception):
    """Training was told to stop (by one of ``STOPPING``) and has saved where it stood."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal_number = number


@dataclass
class History:
    """What happened: one row per member, quantity and logged iteration."""

    rows: list[tuple[int, list[int], dict[str, list[float]]]]

    def note(self, iteration: int, members: Sequence[int], values: dict[str, Tensor]) -> None:
        """Keep the values ``[E]`` of this iteration. Waits for the device."""
        self.rows.append((iteration, list(members), {name: value.tolist() for name, value in values.items()}))

    def tidy(self) -> Iterator[dict[str, Any]]:
        """Rows of iteration, member, quantity, value."""
        for iteration, members, values in self.rows:
            for name, row in values.items():
                for member, value in zip(members, row, strict=True):
                    yield {"iteration": iteration, "member": member, "quantity": name, "value": value}


class Training:
    """An ensemble in training.

    Members that share seed, beta_rec and beta_kl share their warm-up, which ``beta_neg`` does not enter: until the game
    begins the ensemble holds one of each, then as many as the run has members.

    Args:
        run: what to train.
        model: the model, with one member per warm-up (``warmups(run)``).
        batch: the data of an iteration for every member, ``[E, B, *data]``, drawn from their streams.
        device: where to train.
        batch_by_host: the iteration decides on the batch, on the host, so that no graph can hold its making.

    Attributes:
        members: those in training now.
        notes: plain values that the caller wants kept with the resume state.
        timed: whether the history tells the speed, which no two runs share.
        clock: the iteration, on the device.
        handovers: where the random numbers went on with streams of another kind, since the device was another: the
            iteration, which kind they came from, and which they come from since.
        versions: under which code it was trained, as the caller tells: each from an iteration on.
        stream: of the GPU, for all iterations, so that several trainings can be under way on it side by side. Who looks
            at their tensors between two steps calls :meth:`wait` first.
        replay: how a GPU repeats an iteration; None: each is made anew.
    """

    def __init__(
        self,
        run: Run,
        model: IntroVAE,
        batch: Callable[[int, MemberStreams], Tensor],
        device: torch.device,
        batch_by_host: bool = False,
    ):
        self.run, self.model, self.batch, self.device = run, model.to(device), batch, device
        self.rules = rules(run)
        self.iteration = 0
        self.clock = torch.zeros((), dtype=torch.long, device=device)
        self.members: list[Member] = warmups(run)
        self.history = History([])
        self.notes: dict[str, Any] = {}
        self.timed = False
        self.batch_by_host = batch_by_host
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.replay = Replay(self.stream) if self.stream is not None and not model.prior.waits else None
        self._encoder_step: EncoderStep | None = None
        self._rate = math.nan
        self.streams = streams_of(self._seeds(), device, self.clock, self._datasets())
        self.handovers: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.watch = Watch(len(self.members), device)
        self.betas = _betas(self.members, device)
        self.optimizers = {player: self._adam(player) for player in PLAYERS}

    # The schedule

    @property
    def game_start(self) -> int:
        """The first iteration of the game; beyond the last for a VAE."""
        return self.run.training.warmup_iterations if self.run.cell.adversarial else self.run.training.iterations

    @property
    def conversion(self) -> int:
        """The iteration at whose start the prior turns into that of the game, if it does."""
        early = self.run.protocol.conversion == "during-warmup" and self.run.converts
        return self.game_start - (self.run.training.mixture_warmup_iterations if early else 0)

    def learning_rate(self, iteration: int) -> float:
        """Of all players."""
        passed = sum(iteration >= milestone for milestone in self.run.training.milestones)
        return self.run.training.learning_rate * (0.1**passed if self.run.protocol.learning_rate_decay else 1.0)

    def step(self) -> dict[str, Tensor]:
        """One iteration, with the events that its number calls for; the history's values ``[E]``."""
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            self.prepare()
            x = self.batch(self.iteration, self.streams) if self.batch_by_host else None
            if self.replay is None:
                values, self._encoder_step = self.play(x)
            else:
                values, self._encoder_step = self.replay(self.play, x, self.streams.generators)
        self.iteration += 1
        return values

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.stream is not None:
            self.stream.synchronize()

    def prepare(self) -> None:
        """The host's part of an iteration: what happens once, and what may put other tensors in a tensor's place."""
        if self.iteration == self.conversion and self.run.converts:
            self._convert()
        if self.iteration == self.game_start:
            self._begin_game()
        rate = self.learning_rate(self.iteration)
        if rate != self._rate:
            for optimizer in self.optimizers.values():
                optimizer.learning_rate.fill_(rate)
            self._rate = rate
        self.streams.begin()

    def play(self, x: Tensor | None) -> tuple[losses.Means, EncoderStep | None]:
        """The device's part: the same operations on the same memory in every iteration of a phase.

        Args:
            x: the batch, where the host makes it; else None.

        Returns:
            the history's values and, in the game, what the encoder's step left.
        """
        x = self.batch(self.iteration, self.streams) if x is None else x
        played = self._warmup_step(x) if self.iteration < self.game_start else self._game_step(x)
        self.clock += 1
        return played

    def _warmup_step(self, x: Tensor) -> tuple[losses.Means, None]:
        loss, history = losses.warmup_loss(self.model, x, self.streams, self.betas, self.rules)
        self._update(loss, history, "vae_loss", PLAYERS)
        return history, None

    def _game_step(self, x: Tensor) -> tuple[losses.Means, EncoderStep]:
        model, cell, game = self.model, self.run.cell, (self.streams, self.betas, self.rules)
        with self._learning("encoder", cell.prior_encoder) as players:
            loss, encoder_step, history = losses.encoder_loss(model, x, *game, cell.prior_encoder)
            self._update(loss, history, "encoder_loss", players)
        with self._learning("decoder", cell.intro_prior) as players:
            loss, more = losses.decoder_prior_loss(model, x, encoder_step, *game, cell.intro_prior)
            self._update(loss, more, "decoder_loss", players)
        return history | more, encoder_step

    @contextmanager
    def _learning(self, player: str, and_prior: bool) -> Iterator[Sequence[str]]:
        """Let only a player learn, and maybe the prior."""
        players = (player, *["prior"] * and_prior)
        with losses.learning(*(getattr(self.model, name) for name in players), among=self.model):
            yield players

    def _update(self, loss: Tensor, means: losses.Means, stage: str, players: Sequence[str]) -> None:
        self.watch.see(self.clock, stage, means[stage])
        first, *others = (self.optimizers[player] for player in players)
        for optimizer in (first, *others):
            optimizer.zero_grad()
        loss.backward(torch.full_like(loss, 1 / loss.shape[-1]))  # of each member's mean
        first.step(*others)

    # The events

    def _convert(self) -> None:
        before = self.model.prior
        self.model.prior = before.convert(self.model.encode, conversion(self.run))
        if self.model.prior is not before:
            anew = PLAYERS if self.run.protocol.conversion_resets_optimizers else ("prior",)
            self.optimizers.update({player: self._adam(player) for player in anew})
        self._rebound()

    def _begin_game(self) -> None:
        self.select([self.members.index(member.warmup) for member in self.run.members], self.run.members)
        self.model.prior.begin_game(self.run.cell.clipped)
        self._rebound()

    def select(self, rows: Sequence[int], members: Sequence[Member]) -> None:
        """Let the ensemble consist of the present ``rows``, which from now on are ``members``."""
        if list(rows) == list(range(len(self.members))):  # nobody comes or goes
            return self._appoint(members)
        index = torch.tensor(rows, device=self.device)
        with torch.no_grad():
            for optimizer in self.optimizers.values():
                optimizer.select(index)
            shared = {f"prior.{name}" for name in self.model.prior.shared()}
            for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
                if name not in shared:
                    tensor.data, tensor.grad = tensor.data[index], None
        self.watch.select(index)
        self._appoint(members)

    def _appoint(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self.streams.assign(self._seeds(), self._datasets())
        self.betas = _betas(members, self.device)
        self._rebound()

    def _seeds(self) -> list[int]:
        return [self.run.stream(member) for member in self.members]

    def _datasets(self) -> list[str]:
        return [member.dataset for member in self.members]

    def _rebound(self) -> None:
        """Tensors have been put in others' places: nothing that was captured holds any more."""
        self._rate = math.nan
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        if self.replay is not None:
            self.replay.forget()

    def _adam(self, player: str) -> Adam:
        return Adam(getattr(self.model, player).parameters(), self.run.training.learning_rate)

    # Progress

    def advance(
        self,
        until: int,
        *,
        state: Path | None = None,
        checkpoint_seconds: float = math.inf,
        log_every: float = math.inf,
        label: str = "",
        progress: Progress | None = None,
    ) -> None:
        """Train up to iteration ``until``, with a progress bar on standard error.

        Args:
            until: where to stop; the run's end at most.
            state: file for the resume state, written every ``checkpoint_seconds`` and on a signal to stop.
            log_every: iterations between two rows of the history and two looks at who has diverged; there is always one
                at the end.
            label: what the progress bar is called.
            progress: is told how far it is.

        Raises:
            Interrupted: after a signal; the state is saved by then.
        """
        saved = noted = time.monotonic()
        since, alive = self.iteration, len(self.members)
        received: list[int] = []  # acted on between two steps
        with (
            signals.handled(STOPPING, received.append),
            tqdm(
                total=until,
                initial=self.iteration,
                desc=label,
                unit="it",
                mininterval=2.0,
                smoothing=0.1,
                dynamic_ncols=True,
            ) as bar,
        ):
            while self.iteration < until:
                values = self.step()
                bar.update()
                if self.iteration % log_every == 0 or self.iteration == until:
                    self.wait()
                    if self.timed:
                        now = time.monotonic()
                        rate = (self.iteration - since) * self.run.training.batch_size / (now - noted)
                        values["samples_per_second"] = torch.full((len(self.members),), rate)
                        since, noted = self.iteration, now
                    self.look(values)
                    alive = self.watch.alive()
                    bar.set_postfix(alive=f"{alive}/{len(self.watch.iteration)}", refresh=False)
                    if alive == 0:
                        if self.run.cell.adversarial and self.iteration <= self.game_start:
                            self._begin_game()  # it never will, but the records are to be of the run's members
                        break
                due = self.iteration < until and time.monotonic() - saved > checkpoint_seconds
                stop = bool(received) and self.iteration < self.run.training.iterations
                if state is not None and (due or stop):
                    checkpoints.keep(state, self.state())
                    saved = time.monotonic()
                if progress is not None and (stop or progress.due()):
                    progress.tell(self.iteration, bar.format_dict["rate"], alive, len(self.members))
                if stop:
                    where = f"saved to {state}: run the same command to go on" if state else "nothing was saved"
                    raise Interrupted(received[0], f"{label}: stopped at iteration {self.iteration}; {where}")

    def look(self, values: dict[str, Tensor]) -> None:
        """Note in the history what the last iteration gave, and what there is to tell of the prior."""
        self.wait()
        self.history.note(self.iteration, self.numbers(), values | self._diagnostics())

    def _diagnostics(self) -> dict[str, Tensor]:
        """What the history tells of the prior, from no stream of the training's: looking changes nothing."""
        target = posterior = noise = None
        with torch.no_grad():
            if self._encoder_step is not None:
                target, posterior = self._encoder_step.target, self._encoder_step.posterior
                size = (self.run.training.monte_carlo_samples, *posterior.mean.shape[-2:])
                generator = torch.Generator(self.device).manual_seed(self.iteration)
                noise = torch.randn(size, generator=generator, device=self.device)
            return self.model.prior.diagnostics(target, posterior, noise)

    def numbers(self) -> list[int]:
        """Which members of the run are in training; of those that share a warm-up, the first."""
        known = [member if member in self.members else member.warmup for member in self.run.members]
        return [known.index(member) for member in self.members]

    def records(self) -> list[dict[str, Any]]:
        """Per member in training: status (ok or diverged), detail, iteration, last finite losses."""
        self.wait()
        return self.watch.records()

    # The state

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as tensors and plain values."""
        self.wait()
        return {
            "run": self.run.as_dict(),
            "iteration": self.iteration,
            "members": [member.dump() for member in self.members],
            "model": checkpoints.model_state(self.model),
            "optimizers": {player: optimizer.state() for player, optimizer in self.optimizers.items()},
            "streams": self.streams.state(),
            "handovers": self.handovers,
            "versions": self.versions,
            "watch": self.watch.state(),
            "history": self.history.rows,
            "notes": self.notes,
        }

    def restore(self, state: dict[str, Any], where: Path) -> None:
        """Go on from a saved state.

        Raises:
            UserError: the state is of another run.
        """
        if state.get("run") != self.run.as_dict():
            raise UserError(f"{where}: this state belongs to another run; delete it, or choose another --state folder")
        with checkpoints.understood(where, "the state of a training"):
            self._take_over(state)

    def adopt(self, state: dict[str, Any], where: Path) -> None:
        """Begin with a warm-up that was trained before, maybe for other runs too.

        Raises:
            UserError: the state is not that of this run's warm-up at its end.
        """
        with checkpoints.understood(where, "a warm-up"):
            theirs, there = Run.from_dict(state["run"]).warmup, int(state["iteration"])
        different = [name for name, value in self.run.warmup.items() if theirs.get(name) != value]
        if different:
            names = ", ".join(different)
            raise UserError(f"{where}: the warm-up of another run (it differs in {names}); give this run's own")
        if there > self.game_start:
            raise UserError(f"{where}: went beyond the warm-up, to iteration {there}; give a warm-up's end")
        members = [member.dump() for member in warmups(self.run)]
        with checkpoints.understood(where, "a warm-up"):  # of which its own record tells
            self._take_over({**state, "members": members, "versions": self.versions})

    def _take_over(self, state: dict[str, Any]) -> None:
        checkpoints.restore(self.model, state["model"], self.device)
        self._appoint([Member(**member) for member in state["members"]])
        self.iteration = state["iteration"]
        self.clock.fill_(self.iteration)
        self.handovers, self.versions = list(state["handovers"]), list(state["versions"])
        if not self.streams.restore(state["streams"], self.iteration):
            kinds = {"from": state["streams"]["kind"], "to": self.streams.kind}
            self.handovers.append({"iteration": self.iteration, **kinds})
        self.watch.restore(state["watch"])
        self.history, self.notes = History(state["history"]), state["notes"]
        self.optimizers = {player: self._adam(player) for player in PLAYERS}
        for player, optimizer in self.optimizers.items():
            optimizer.restore(state["optimizers"][player])
        self._rebound()


def warmups(run: Run) -> list[Member]:
    """The distinct warm-ups of a run's members, in order of appearance."""
    return list(dict.fromkeys(member.warmup for member in run.members))


def rules(run: Run) -> Rules:
    """The game's numbers and choices; a loss scale per element is 1/2 in 2D, 1/(CHW) for images."""
    training, protocol = run.training, run.protocol
    return Rules(
        scale=1 / training.data_elements if protocol.loss_scale == "per-element" else 1.0,
        alpha=training.alpha,
        gamma=training.gamma,
        gamma_r=training.gamma_r,
        r_entropy=training.r_entropy,
        monte_carlo_samples=0 if run.cell.closed_form_kl else training.monte_carlo_samples,
        cauchy_schwarz=run.cell.cauchy_schwarz,
        reconstructions_are_fakes=protocol.fake_terms == "generated-and-reconstructed",
        fresh_noise=protocol.decoder_noise == "fresh",
        gamma_r_terms=protocol.gamma_r_terms == "compute",
        normalised_entropy=protocol.responsibility_weight == "normalised-scaled",
    )


def conversion(run: Run) -> Conversion:
    """How the prior changes before the game."""
    return Conversion(run.protocol.conversion_logits, run.protocol.component_variance, run.training.clip_steepness)


def betas(member: Member) -> Betas:
    """As the losses take them."""
    return Betas(member.beta_rec, member.beta_kl, member.beta_neg or 0.0)


def _betas(members: Sequence[Member], device: torch.device) -> Betas:
    columns = zip(*map(betas, members), strict=True)
    return Betas(*(torch.tensor(column, device=device).unsqueeze(-1) for column in columns))
