{{/* Names and labels */}}
{{- define "cos2p.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cos2p.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .class }}
co-s2p/device-class: {{ . }}
{{- end }}
{{- end -}}

{{- define "cos2p.labels" -}}
{{ include "cos2p.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "cos2p.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "cos2p.prefix" -}}
{{ default (include "cos2p.fullname" .) .Values.run.prefix }}
{{- end -}}

{{- define "cos2p.runId" -}}
{{ default (include "cos2p.fullname" .) .Values.run.id }}
{{- end -}}

{{- define "cos2p.bootstrap" -}}
{{- if .Values.kafka.bundled.enabled -}}
{{ include "cos2p.fullname" . }}-kafka-0.{{ include "cos2p.fullname" . }}-kafka:9092
{{- else -}}
{{ .Values.kafka.external.bootstrapServers }}
{{- end -}}
{{- end -}}

{{- define "cos2p.sasl" -}}
{{- if and (not .Values.kafka.bundled.enabled) (hasPrefix "SASL" .Values.kafka.external.security) }}true{{ end -}}
{{- end -}}
{{- define "cos2p.tls" -}}
{{- if and (not .Values.kafka.bundled.enabled) (hasSuffix "SSL" .Values.kafka.external.security) }}true{{ end -}}
{{- end -}}

{{/* What can't be rendered sensibly is refused here, in words */}}
{{- define "cos2p.check" -}}
{{- if and .Values.kafka.bundled.enabled .Values.kafka.external.bootstrapServers -}}
{{- fail "kafka: set either kafka.bundled.enabled or kafka.external.bootstrapServers, not both" -}}
{{- end -}}
{{- if not (or .Values.kafka.bundled.enabled .Values.kafka.external.bootstrapServers) -}}
{{- fail "kafka: set kafka.external.bootstrapServers to HOST:PORT, or kafka.bundled.enabled to true for a try-out" -}}
{{- end -}}
{{- if include "cos2p.sasl" . -}}
{{- range $role, $secret := .Values.kafka.external.existingSecret -}}
{{- if not $secret -}}
{{- fail (printf "kafka.external.security is %s: name the Secret with username and password in kafka.external.existingSecret.%s" $.Values.kafka.external.security $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.signing.registerSecret .Values.init.enabled (not .Values.signing.operatorSecret) -}}
{{- fail "signing.registerSecret is set: name the Secret with operator.pem in signing.operatorSecret, or the job can't ask for the run" -}}
{{- end -}}
{{- if and .Values.signing.registerSecret .Values.evaluator.enabled (not .Values.signing.evaluatorSecret) -}}
{{- fail "signing.registerSecret is set: name the Secret with evaluator.pem in signing.evaluatorSecret" -}}
{{- end -}}
{{- range $class, $own := .Values.workers -}}
{{- $worker := include "cos2p.class" (dict "root" $ "own" $own) | fromYaml -}}
{{- if and $.Values.signing.registerSecret (not $worker.signingSecret) -}}
{{- fail (printf "signing.registerSecret is set: workers.%s.signingSecret must name the Secret with POD.pem for each of its pods" $class) -}}
{{- end -}}
{{- if gt (int (add $worker.data.shardOffset $worker.replicas)) (int $worker.data.shards) -}}
{{- if gt (int $worker.data.shards) 1 -}}
{{- fail (printf "workers.%s: %d pods from part %d on need data.shards of %d or more, not %d" $class (int $worker.replicas) (int $worker.data.shardOffset) (int (add $worker.data.shardOffset $worker.replicas)) (int $worker.data.shards)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A device class: its own values over the defaults, as YAML */}}
{{- define "cos2p.class" -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (default dict .own)) | toYaml -}}
{{- end -}}

{{/* Pods */}}
{{- define "cos2p.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "cos2p.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Environment of every process: .root, .role (whose Kafka user), .deadline */}}
{{- define "cos2p.env" -}}
- name: COS2P_BUS
  value: kafka://{{ include "cos2p.bootstrap" .root }}
- name: COS2P_PREFIX
  value: {{ include "cos2p.prefix" .root }}
- name: COS2P_LOG_FORMAT
  value: json
{{- if .port }}
- name: COS2P_METRICS_PORT
  value: {{ .root.Values.metrics.port | quote }}
- name: COS2P_METRICS_HOST
  value: 0.0.0.0
- name: COS2P_SHUTDOWN_DEADLINE_S
  value: {{ .deadline | quote }}
- name: COS2P_RUN_ID  # not another release's, where both took one prefix
  value: {{ include "cos2p.runId" .root }}
- name: COS2P_STAY  # a pod that exits is started again: after the run's end, too
  value: "true"
{{- end }}
{{- if not .root.Values.kafka.bundled.enabled }}
- name: COS2P_KAFKA_SECURITY
  value: {{ .root.Values.kafka.external.security }}
{{- if include "cos2p.sasl" .root }}
- name: COS2P_KAFKA_MECHANISM
  value: {{ .root.Values.kafka.external.mechanism }}
- name: COS2P_KAFKA_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ get .root.Values.kafka.external.existingSecret .role }}
      key: username
- name: COS2P_KAFKA_PASSWORD_FILE
  value: /etc/co-s2p/kafka/password
{{- else if and (include "cos2p.tls" .root) (get .root.Values.kafka.external.existingSecret .role) }}
- name: COS2P_KAFKA_CERT_FILE
  value: /etc/co-s2p/kafka/tls.crt
- name: COS2P_KAFKA_KEY_FILE
  value: /etc/co-s2p/kafka/tls.key
{{- end }}
{{- if and (include "cos2p.tls" .root) .root.Values.kafka.external.caSecret }}
- name: COS2P_KAFKA_CA_FILE
  value: /etc/co-s2p/ca/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "cos2p.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "cos2p.credentials" . }}
- name: kafka-credentials
  mountPath: /etc/co-s2p/kafka
  readOnly: true
{{- end }}
{{- if include "cos2p.ca" . }}
- name: kafka-ca
  mountPath: /etc/co-s2p/ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "cos2p.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if include "cos2p.credentials" . }}
- name: kafka-credentials
  secret:
    secretName: {{ get .root.Values.kafka.external.existingSecret .role }}
    defaultMode: 0440
{{- end }}
{{- if include "cos2p.ca" . }}
- name: kafka-ca
  secret:
    secretName: {{ .root.Values.kafka.external.caSecret }}
    defaultMode: 0444
{{- end }}
{{- end -}}

{{- define "cos2p.credentials" -}}
{{- if and (or (include "cos2p.sasl" .root) (include "cos2p.tls" .root)) (get .root.Values.kafka.external.existingSecret .role) }}true{{ end -}}
{{- end -}}
{{- define "cos2p.ca" -}}
{{- if and (include "cos2p.tls" .root) .root.Values.kafka.external.caSecret }}true{{ end -}}
{{- end -}}

{{- define "cos2p.probes" -}}
ports:
  - name: metrics
    containerPort: {{ .Values.metrics.port }}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end -}}

{{/* Pod fields that every component has */}}
{{- define "cos2p.pod" -}}
serviceAccountName: {{ include "cos2p.fullname" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
{{ include "cos2p.podSecurity" . | indent 2 }}
{{- with .own.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}
