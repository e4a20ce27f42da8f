"""Random samples in a plan's shapes, made once: a run on them prices the loader of the real run.

Reads the plan folder, never an index. K sources of a stage, S sequence length, B samples.
"""

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.batch import Batch
from megatron_math.dataset.plan import Plan
from megatron_math.dataset.reader import SampleNumbers


class MockReader:
    """In the place of a stage's PlanReader; each of a source's samples is the same one.

    It has the source's mean number of tokens, in documents of the index's mean length.
    """

    def __init__(self, plan: Plan, stage: str, vocab_size: int) -> None:
        number = plan.stage_number(stage)
        planned = plan.stages[number]
        self.stage = planned.name
        self.num_samples = planned.num_samples
        self.sequence_length = planned.sequence_length
        self.sources = [source.name for source in planned.sources]
        self._order = plan.order(number)

        shape = (len(planned.sources), self.sequence_length)
        generator = np.random.default_rng(plan.content.seed)
        self._tokens_KS = generator.integers(0, vocab_size, shape, dtype=np.int64)
        self._labels_KS = np.roll(self._tokens_KS, -1, axis=1)
        self._position_ids_KS = np.empty(shape, dtype=np.int64)
        self._document_ids_KS = np.empty(shape, dtype=np.int32)
        self._loss_mask_KS = np.zeros(shape, dtype=np.float32)
        self._real_KS = np.zeros(shape, dtype=bool)
        position_S = np.arange(self.sequence_length)
        for row, source in enumerate(planned.sources):
            index = plan.content.indexes[source.name]
            length = max(1, round(index.training_tokens / max(1, index.training_documents)))
            if source.attend == "across":
                length = self.sequence_length
            filled = min(self.sequence_length, round(source.tokens / max(1, source.samples)))
            id_S = np.where(position_S < filled, position_S // length, self.sequence_length)
            self._document_ids_KS[row] = id_S
            self._real_KS[row, :filled] = True
            self._position_ids_KS[row] = np.where(
                position_S < filled, position_S % length, position_S - filled
            )
            self._loss_mask_KS[row, :-1] = (id_S[1:] == id_S[:-1]) & (position_S[1:] < filled)

    def real_tokens(self, sample_indices: SampleNumbers) -> npt.NDArray[np.bool_]:
        """[B, S]: which inputs of `batch(sample_indices)` are no padding."""
        return self._real_KS[self._order[np.asarray(sample_indices)]]

    def batch(self, sample_indices: SampleNumbers) -> Batch:
        """As many samples as asked for, of the sources that the plan has there."""
        source_B = np.asarray(self._order[np.asarray(sample_indices)], dtype=np.int32)
        return Batch(
            tokens_BS=self._tokens_KS[source_B],
            labels_BS=self._labels_KS[source_B],
            loss_mask_BS=self._loss_mask_KS[source_B],
            document_ids_BS=self._document_ids_KS[source_B],
            position_ids_BS=self._position_ids_KS[source_B],
            source_B=source_B,
        )
