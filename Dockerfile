# Two images from one file:
#   docker build --target api    .    the HTTP API, migrations, beat and the CLI; no torch
#   docker build --target worker .    what reads data files and computes
# Dependencies come before the source, so that a change of code rebuilds only the last layers.

# The lists of dependencies alone: another change of pyproject.toml installs nothing anew.
FROM python:3.11-slim AS requirements
# Extras of pyproject.toml that the worker's image has beyond its own, e.g. "encoders".
ARG WORKER_EXTRAS=""
COPY pyproject.toml /
RUN python -c "import os, tomllib; p = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
extra = p['optional-dependencies']; \
print(*p['dependencies'], *extra['s3'], *extra['otel'], sep='\n', file=open('/both.txt', 'w')); \
print(*extra['api'], sep='\n', file=open('/api.txt', 'w')); \
worker = ['worker', *os.environ['WORKER_EXTRAS'].split()]; \
print(*(line for name in worker for line in extra[name]), sep='\n', file=open('/worker.txt', 'w'))"

FROM python:3.11-slim AS dependencies
# Where pip finds packages beyond its ordinary index, e.g. the index with torch's CPU builds.
# Empty: the ordinary index alone, whose torch for Linux brings CUDA along.
ARG PIP_EXTRA_INDEX_URL=""
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY constraints.txt ./
COPY --from=requirements /both.txt /opt/
RUN pip install --constraint constraints.txt setuptools --requirement /opt/both.txt

FROM dependencies AS api-dependencies
COPY --from=requirements /api.txt /opt/
RUN pip install --constraint constraints.txt --requirement /opt/api.txt

FROM dependencies AS worker-dependencies
COPY --from=requirements /worker.txt /opt/
RUN pip install --constraint constraints.txt --requirement /opt/worker.txt

FROM api-dependencies AS api
COPY . .
RUN pip install --no-deps --no-build-isolation --editable . \
    && python -m compileall -q service workers models_store \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin unlearn \
    && install -d -o unlearn -g unlearn /var/lib/unlearn /var/lib/unlearn/store \
        /var/lib/unlearn/uploads /var/lib/unlearn/fetched /data
ENV HOME=/tmp UNLEARN_STATE_DIR=/var/lib/unlearn UNLEARN_DATA_ROOT=/data
USER unlearn
EXPOSE 8000
CMD ["uvicorn", "service.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000"]

FROM worker-dependencies AS worker
COPY . .
RUN pip install --no-deps --no-build-isolation --editable . \
    && python -m compileall -q service workers models_store unlearning \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin unlearn \
    && install -d -o unlearn -g unlearn /var/lib/unlearn /var/lib/unlearn/store \
        /var/lib/unlearn/uploads /var/lib/unlearn/fetched /data
ENV HOME=/tmp UNLEARN_STATE_DIR=/var/lib/unlearn UNLEARN_DATA_ROOT=/data
USER unlearn
HEALTHCHECK --interval=60s --timeout=20s --retries=3 --start-period=60s CMD ["unlearn", "worker-health"]
CMD ["celery", "-A", "workers.app", "worker", "--pool", "threads", "--concurrency", "5", \
     "-Q", "deletions,trainings,background,events", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
