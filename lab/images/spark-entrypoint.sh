#!/bin/sh
# Entry point of the lab's Spark image. First argument: driver, executor, or any program to run instead.
#
# Contract (what Spark's Kubernetes backend puts into the pods it creates):
#   driver    "driver --properties-file F --class C RESOURCE ARGS...", SPARK_DRIVER_BIND_ADDRESS
#   executor  SPARK_DRIVER_URL, SPARK_EXECUTOR_{ID,CORES,MEMORY,POD_IP,POD_NAME}, SPARK_APPLICATION_ID,
#             SPARK_RESOURCE_PROFILE_ID
#   both      SPARK_JAVA_OPT_<n>: one JVM argument each, whatever it contains
# The process replaces this shell, so that tini (PID 1) hands it the signals and reports its exit code.
set -eu
# This text, where the lab keeps it; no business of the program's.
unset CHAOSRUN_ENTRYPOINT

SPARK_HOME=${SPARK_HOME:-/opt/spark}
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export SPARK_HOME PATH
# The interpreter of the host's distribution; another one on PATH may lack what Spark's launcher imports.
export PYSPARK_PYTHON="${PYSPARK_PYTHON:-/usr/bin/python3}"
export PYSPARK_DRIVER_PYTHON="${PYSPARK_DRIVER_PYTHON:-$PYSPARK_PYTHON}"
# Spark asks for a home folder (ivy, hadoop); the real one is not writable in a container.
export HOME="${SPARK_CONTAINER_HOME:-/tmp}"
PYTHONPATH=$SPARK_HOME/python${PYTHONPATH:+:$PYTHONPATH}
for zip in "$SPARK_HOME"/python/lib/py4j-*-src.zip; do
    PYTHONPATH=$PYTHONPATH:$zip
done
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1

if [ -n "${JAVA_HOME:-}" ]; then
    java=$JAVA_HOME/bin/java
else
    java=java
fi

role=${1:-}
case $role in
driver)
    shift
    set -- "$SPARK_HOME/bin/spark-submit" \
        --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
        --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
        --deploy-mode client \
        "$@"
    ;;
executor)
    class_path=$SPARK_HOME/jars/*
    [ -z "${SPARK_CLASSPATH:-}" ] || class_path=$SPARK_CLASSPATH:$class_path
    [ -z "${SPARK_CONF_DIR:-}" ] || class_path=$SPARK_CONF_DIR:$class_path
    class_path=$class_path:${SPARK_EXTRA_CLASSPATH:+$SPARK_EXTRA_CLASSPATH:}$PWD
    set -- \
        "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
        -cp "$class_path" \
        org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
        --driver-url "$SPARK_DRIVER_URL" \
        --executor-id "$SPARK_EXECUTOR_ID" \
        --cores "$SPARK_EXECUTOR_CORES" \
        --app-id "$SPARK_APPLICATION_ID" \
        --hostname "$SPARK_EXECUTOR_POD_IP" \
        --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" \
        --podName "$SPARK_EXECUTOR_POD_NAME"
    # In front, highest number first, so that they end up in order; `eval` only ever sees a variable's name.
    for name in $(env | sed -n 's/^\(SPARK_JAVA_OPT_[0-9][0-9]*\)=.*/\1/p' | sort -t_ -k4,4nr); do
        eval "option=\$$name"
        set -- "$option" "$@"
    done
    set -- "$java" "$@"
    ;;
'')
    echo "spark-entrypoint: expected driver, executor or a program to run" >&2
    exit 64
    ;;
esac

exec "$@"
