# Each target is enough on a fresh clone: it makes .venv first when that is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO := examples/00_quickstart_cpu
PYTHON312 ?= python3.12
COMPAT := .venv-compat
TE_WHEELS ?=

.PHONY: setup demo test slurm browser bench-data bench-estimate bench-train bench-curate bench-answers findings compat soak check clean

setup: $(READY)

$(READY): pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python $(DEMO)/corpora.py runs/quickstart/corpora
	$(BIN)/megatron-math run $(DEMO)/base.yaml
	$(BIN)/megatron-math run $(DEMO)/cpt.yaml
	@echo "read on: runs/quickstart/cpt/80_report/index.html"

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# launch and examples/slurm on a real two-node SLURM on this machine; skips without slurm-wlm and munge.
slurm: $(READY)
	$(BIN)/python -m pytest -m slurm -rs tests/slurm

# Both pages of report in headless Chromium, which must be here (Debian: chromium-headless-shell): layout,
# filter, and accessibility by axe-core, which npm fetches into .axe.
browser: $(READY)
	npm install --silent --no-audit --no-fund --no-save --prefix .axe axe-core@4
	$(BIN)/python -m pytest -rs tests/report/test_browser.py

# Every figure of docs/benchmarks/data_plane.md against its peer: an hour, 20 GB, of which 500 MB of
# packages are fetched for their text, a quiet machine.
bench-data: $(READY)
	$(BIN)/python tests/bench/data_plane --record

# docs/benchmarks/estimate.md: published training speeds beside what `estimate` says of them; seconds.
bench-estimate: $(READY)
	$(BIN)/python tests/bench/estimate

# docs/benchmarks/train.md: training speed beside its peers, half an hour for each case, a quiet machine;
# fetches litgpt and accelerate into environments of their own.
bench-train: $(READY)
	$(BIN)/python tests/bench/train --record
	$(BIN)/python tests/bench/train --case llama-34m --record

# docs/benchmarks/curate.md: decontamination and near-duplicates beside datatrove, whose Python is CURATE_PEER_PYTHON, and
# whole commands of ours on 300 MB: half an hour, a quiet machine.
CURATE_PEER_PYTHON ?= python3
bench-curate: $(READY)
	$(BIN)/python tests/bench/curate --peer-python $(CURATE_PEER_PYTHON) --record

# docs/benchmarks/answers.md: grading 10,000 pairs beside math-verify alone, every difference judged.
bench-answers: $(READY)
	$(BIN)/python tests/bench/answers --record

# Do the findings of MathGPT-8B appear in small? RQ1 and RQ3 over six seeds; an hour and a half, two cores, no GPU.
# Stopped, it goes on; what is done is left alone. docs/studies.md says how to read the tables.
findings: $(READY)
	$(BIN)/python $(DEMO)/corpora.py runs/study_texts
	$(BIN)/python examples/60_study_rq1/texts.py runs/study_texts
	$(BIN)/megatron-math study examples/60_study_rq1/miniature.yaml --jobs 2 \
	  $(addprefix --only ,base1 mix_7_3 mix_5_5 mix_3_7 shuffled)
	$(BIN)/megatron-math study examples/62_study_rq3/miniature.yaml --jobs 2 \
	  $(addprefix --only ,base1 base2 base1_sft base1_1sft base2_1sft easy_cpt hard_cpt easy_sft hard_sft)

# docs/benchmarks/compat.md: parity and resume with the newest megatron-core, which wants Python 3.12 (PYTHON312)
# and fetches the CUDA build of torch: half an hour, 6 GB. TE_WHEELS=folder with a transformer_engine_torch
# wheel: its layers and FP8 recipes are built, too.
compat: $(COMPAT)/.ready
	$(COMPAT)/bin/python tests/compat $(if $(TE_WHEELS),--te-wheels $(TE_WHEELS))

$(COMPAT)/.ready: pyproject.toml setup.py constraints-compat.txt $(wildcard csrc/*)
	$(PYTHON312) -m venv $(COMPAT)
	$(COMPAT)/bin/pip install --quiet --disable-pip-version-check -c constraints-compat.txt -e ".[dev]"
	touch $(COMPAT)/.ready

# Long campaigns: layouts of 8 processes, 1,000 kills, every system call failing (needs strace), fuzzing with
# sanitizers, 10,000 damages of a checkpoint, every system call of a save, 300 kills of training, a kill a minute,
# 10,000 flipped bits in memory, 1,000 steps in every FP8 recipe.
soak: $(READY)
	$(BIN)/python -m pytest -m soak --timeout 1800
	$(BIN)/python tests/soak/index_kills.py --kills 1000
	$(BIN)/python tests/soak/index_faults.py
	$(BIN)/python tests/native/fuzz/run.py --seconds 300
	$(BIN)/python tests/soak/checkpoint_flips.py
	$(BIN)/python tests/soak/checkpoint_kills.py
	$(BIN)/python tests/soak/training_kills.py
	$(BIN)/python tests/soak/training_kills.py --controls
	$(BIN)/python tests/soak/effective_time.py
	$(BIN)/python tests/soak/bit_flips.py
	$(BIN)/python tests/soak/bit_flips.py --at-rest 100 --replay
	$(BIN)/python tests/soak/influence_selection.py
	$(BIN)/python tests/soak/fp8_rehearsal.py runs/fp8_rehearsal

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy megatron_math tools
	for script in examples/*/*.py; do $(BIN)/mypy $$script || exit 1; done  # scripts share names

clean:
	rm -rf .venv $(COMPAT) build megatron_math/*.so
