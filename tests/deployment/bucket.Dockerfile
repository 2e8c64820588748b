# An S3 server in place of MinIO's image, for a machine that reaches a package index and no registry.
FROM python:3.11-slim
COPY constraints.txt /
RUN pip install --no-cache-dir --constraint /constraints.txt flask flask-cors "moto[s3]"
USER 10001
