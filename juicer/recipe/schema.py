"""The recipe: everything that decides a result, one typed section per part of the pipeline."""

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.bounds import Seed
from juicer.settings.choice import ChoiceSettings
from juicer.settings.claim import ClaimSettings
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, JudgeSettings, ScorerSettings, TemplateSettings
from juicer.settings.evaluation import EvaluationSettings
from juicer.settings.irft import IrftSettings
from juicer.settings.keep import KeepSettings
from juicer.settings.leaderboard import LeaderboardSettings
from juicer.settings.methods import MethodsSettings
from juicer.settings.models import PolicySettings, RegisterSettings
from juicer.settings.pairwise import PairwiseSettings
from juicer.settings.preferences import PreferencesSettings
from juicer.settings.report import ReportSettings
from juicer.settings.rft import RftSettings
from juicer.settings.sft import SftMatchedSettings, SftSettings
from juicer.settings.sources import FetchSettings
from juicer.settings.text import Text
from juicer.settings.tiny import TinySettings
from juicer.settings.tracking import TrackingSettings
from juicer.settings.world import PretrainSettings, WorldSettings


class Recipe(Settings):
    """All parameters of a pipeline run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)
    """Name, in lower case; also that of the MLflow experiment and of the registered model, unless `register` says
    otherwise."""
    description: Text = ""
    """One or two sentences, shown in the report."""
    seed: Seed = Field(0, ge=0)
    """Seed of every random choice."""
    compute: ComputeSettings = ComputeSettings()
    fetch: FetchSettings
    world: WorldSettings | None = None
    pretrain: PretrainSettings | None = None
    tiny: TinySettings | None = None
    template: TemplateSettings = TemplateSettings()
    policy: PolicySettings
    preferences: PreferencesSettings | None = None
    scorer: ScorerSettings = ScorerSettings()
    judge: JudgeSettings = JudgeSettings()
    curate: CurateSettings = CurateSettings()
    sft: SftSettings
    sft_matched: SftMatchedSettings
    irft: IrftSettings = IrftSettings()
    rft: RftSettings = RftSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    choice: ChoiceSettings = ChoiceSettings()
    pairwise: PairwiseSettings | None = None
    leaderboard: LeaderboardSettings = LeaderboardSettings()
    report: ReportSettings = ReportSettings()
    claim: ClaimSettings = ClaimSettings()
    methods: MethodsSettings | None = None
    keep: KeepSettings = KeepSettings()
    tracking: TrackingSettings = TrackingSettings()
    register_: RegisterSettings = Field(RegisterSettings(), alias="register")
