# One image for every process of batch_pipeline. Each service of compose.yaml is a command of it.
#   docker build --tag batch-pipeline .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /source
COPY constraints.txt LICENSE README.md pyproject.toml ./
COPY dagster_home dagster_home
COPY batch_pipeline batch_pipeline
RUN python -m venv /opt/batch-pipeline \
    && /opt/batch-pipeline/bin/pip install --no-cache-dir --constraint constraints.txt '.[celery]'

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/batch-pipeline /opt/batch-pipeline
COPY deploy/workspace.yaml /etc/batch-pipeline/workspace.yaml
COPY dagster_home/dagster.yaml /etc/batch-pipeline/dagster_home/dagster.yaml
# The number lets Kubernetes check that the user is not root. Dagster writes the output of runs below its home folder.
RUN useradd --system --uid 10001 --home-dir /var/lib/batch-pipeline --create-home batch \
    && chown --recursive batch /etc/batch-pipeline/dagster_home
ENV PATH=/opt/batch-pipeline/bin:$PATH \
    DAGSTER_HOME=/etc/batch-pipeline/dagster_home \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/batch-pipeline
EXPOSE 3000 4000 8000
# Of the default command. The other services of compose.yaml have their own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["batch-pipeline", "api", "--host", "0.0.0.0", "--port", "8000"]
