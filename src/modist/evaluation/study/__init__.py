"""A study: models, what is made of them and what one has without making anything, in one table, from one YAML."""

from modist.evaluation.study.document import Study, load_study
from modist.evaluation.study.price import Price, price_study
from modist.evaluation.study.run import Options, Outcome, Watch, run_study

__all__ = ["Options", "Outcome", "Price", "Study", "Watch", "load_study", "price_study", "run_study"]
