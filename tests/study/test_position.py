import json
from dataclasses import asdict

from secateurs.channels.proof import Proof
from secateurs.study.position import Position, StudyStage, proof_of


def test_a_position_is_the_same_after_json():
    proof = Proof(1e-7, 3.0, 2e-5, layer="out", inexact=("layer_norm over channels in a",))
    position = Position(StudyStage.FINE_TUNE, 2, 40, 7, result_proof=asdict(proof))
    again = Position(**json.loads(json.dumps(asdict(position), allow_nan=False)))
    assert StudyStage(again.stage) is StudyStage.FINE_TUNE
    assert (again.round, again.batch, again.done) == (2, 40, 7)
    assert proof_of(again) == proof  # JSON knows no tuples


def test_before_any_cut_there_is_no_proof_and_any_evaluation_is_the_best():
    position = Position()
    assert proof_of(position) is None
    assert position.best < -1e300
    assert (position.best, -position.best_loss) < (-1e9, -1e9)
    assert position.stage is StudyStage.DENSE
