"""What is wanted of a mixture: the `mix` block of `shards`, and what it means in the solver's terms."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.kernels import mixture


class Share(BaseModel):
    """What is wanted of a group of documents: one of a weight, a number of tokens, of epochs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float | None = Field(None, ge=0, description="Its part, beside other weights, of what is left in `tokens`.")
    tokens: float | None = Field(None, ge=0, description="How many tokens it comes to.")
    epochs: float | None = Field(None, ge=0, description="How often it comes up, on average.")
    max_epochs: float | None = Field(None, gt=0, description="The most epochs of this group; the mixture's if omitted.")

    @model_validator(mode="after")
    def _one_way(self) -> "Share":
        if sum(way is not None for way in (self.weight, self.tokens, self.epochs)) != 1:
            raise ValueError("give exactly one of weight, tokens and epochs")
        return self


class Curve(BaseModel):
    """More of the better documents of each group: epochs that rise with the quality bucket."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: str = Field("bucket", description="Integers from 0, the worst; null throughout a group: it has no curve.")
    buckets: int = Field(20, ge=1, le=1000, description="How many there are.")
    power: float = Field(1.0, ge=0, le=50, description="p of x^p e^(rate x), x from 0 at the floor to 1 at the best.")
    rate: float = Field(2.0, ge=0, le=50, description="How steeply it rises.")
    floor: float = Field(0.4, ge=0, lt=1, description="The share of buckets, from below, of which nothing is taken.")


class Mix(BaseModel):
    """How much of which documents: the tokens of each group, made by repeating documents and leaving some out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: tuple[str, ...] = Field(
        ("source",), min_length=1, description="Columns that make a group; several are joined, as en/19."
    )
    groups: dict[str, Share] = Field(
        {},
        description="By name or pattern, {weight | tokens | epochs, max_epochs}. What a pattern matches is one group; "
        "'*' is every group not named, each on its own. None given: all as they are, up or down to `tokens`.",
    )
    tokens: float | None = Field(None, gt=0, description="Of the whole mixture; as many as there are if omitted.")
    max_epochs: float = Field(mixture.MAX_EPOCHS, gt=0, description="No group is repeated more often than this.")
    temperature: float | None = Field(
        None, ge=1, description="Weights for groups not named (languages): 1 as they are, higher evens them out."
    )
    premiums: dict[str, float] = Field({}, description="Byte premiums for the temperature, as {zh: 0.93}; else 1.")
    upsample: Literal["dup_count"] | None = Field(
        None, description="dup_count: one epoch has 1, 2, 3, 5, 8 or 1 copies by the size of the duplicate cluster."
    )
    quality: Curve | None = Field(None, description="{column, buckets, power, rate, floor}: more of the better.")

    @model_validator(mode="after")
    def _weights_agree(self) -> "Mix":
        weighted = [name for name, share in self.groups.items() if share.weight is not None]
        if self.temperature is not None and (weighted or mixture.REST in self.groups):
            named = f"{weighted[0]} has a weight" if weighted else "'*' is given"
            raise ValueError(f"the temperature gives the weights of all groups not named, but {named}")
        if self.premiums and self.temperature is None:
            raise ValueError("premiums are of use with a temperature only")
        if both := sorted(set(self.premiums) & set(self.groups)):
            raise ValueError(
                f"{both[0]} has a premium and a share: a premium is for what the temperature gives a weight"
            )
        return self

    @model_validator(mode="after")
    def _epochs_can_be_had(self) -> "Mix":
        for name, share in self.groups.items():
            most = self.max_epochs if share.max_epochs is None else share.max_epochs
            if share.epochs is not None and share.epochs > most:
                raise ValueError(f"{name} asks for {share.epochs:g} epochs, but max_epochs is {most:g}")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns it reads."""
        return (*self.by, *([self.upsample] if self.upsample else []), *([self.quality.column] if self.quality else []))

    @property
    def by_bytes(self) -> bool:
        """Whether bytes of text give weights: with a temperature, which is 1 where no group is named."""
        return self.temperature is not None or not self.groups

    def group(self, name: str) -> str:
        """The group of documents whose columns `by` say `name`: itself, or the first pattern that it matches."""
        if name in self.groups:
            return name
        return next((one for one in self.groups if one != mixture.REST and fnmatchcase(name, one)), name)

    def requests(self, groups: Sequence[mixture.Group]) -> dict[str, mixture.Request]:
        """What is wanted of `groups`, in the solver's terms. Raises `Infeasible`."""
        named = {name: mixture.Request(**share.model_dump()) for name, share in self.groups.items()}
        if not self.by_bytes:
            return named
        temperature = 1.0 if self.temperature is None else self.temperature
        return {**mixture.tempered([one for one in groups if one.name not in named], temperature, self.premiums),
                **named}  # fmt: skip
