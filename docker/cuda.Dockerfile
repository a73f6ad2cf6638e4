# The runtime and a model, for CUDA. The host needs the driver and the container toolkit of NVIDIA;
# CUDA and cuDNN come as Python packages. From the root of the repository:
#   docker build -f docker/cuda.Dockerfile -t mrnn-cuda .
#   docker run --rm --gpus all mrnn-cuda
#   docker run --rm --gpus all -v "$PWD/photos:/photos:ro" mrnn-cuda caption /photos --provider cuda
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY mrnn_runtime mrnn_runtime
COPY plugins/mrnn-flickr8k plugins/mrnn-flickr8k
RUN python -m venv /opt/mrnn \
    && /opt/mrnn/bin/pip install --no-cache-dir --constraint constraints.txt \
        ".[gpu]" "onnxruntime-gpu[cuda,cudnn]" ./plugins/mrnn-flickr8k

FROM python:3.12-slim
COPY --from=build /opt/mrnn /opt/mrnn
ENV PATH=/opt/mrnn/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65534:65534
ENTRYPOINT ["mrnn"]
# Says whether CUDA works; that can be seen where a GPU is, not while the image is built.
CMD ["doctor"]
