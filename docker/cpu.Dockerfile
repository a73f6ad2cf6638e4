# The runtime and a model, for the CPU. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t mrnn .
#   docker run --rm --network none --read-only -v "$PWD/photos:/photos:ro" mrnn caption /photos
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY mrnn_runtime mrnn_runtime
COPY plugins/mrnn-flickr8k plugins/mrnn-flickr8k
RUN python -m venv /opt/mrnn \
    && /opt/mrnn/bin/pip install --no-cache-dir --constraint constraints.txt \
        ".[cpu]" ./plugins/mrnn-flickr8k

FROM python:3.12-slim
COPY --from=build /opt/mrnn /opt/mrnn
ENV PATH=/opt/mrnn/bin:$PATH
USER 65534:65534
# An image whose model does not compute what it computed at export is not built.
RUN mrnn verify flickr8k
ENTRYPOINT ["mrnn"]
CMD ["--help"]
