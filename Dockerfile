# pymq as an image:  docker build -t pymq .
# It runs any of its commands:  docker run pymq --help
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY pymq pymq
COPY namesrv namesrv
COPY broker broker
COPY client client
COPY conf conf
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels pymq-rocketmq \
    && rm -r /wheels \
    && useradd --create-home pymq \
    && install --directory --owner pymq /data
USER pymq
WORKDIR /data
VOLUME /data
ENTRYPOINT ["pymq"]
