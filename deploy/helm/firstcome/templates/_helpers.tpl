{{- define "firstcome.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "firstcome.fullname" -}}
{{- $name := include "firstcome.name" . }}
{{- $usual := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $usual | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The labels by which a program's pods are found: they must not change between versions. */}}
{{- define "firstcome.selector" -}}
app.kubernetes.io/name: {{ include "firstcome.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{/* Metadata of a program's object. */}}
{{- define "firstcome.metadata" -}}
name: {{ include "firstcome.fullname" .root }}-{{ .role }}
labels:
  {{- include "firstcome.selector" . | nindent 2 }}
  {{- include "firstcome.labels" .root | nindent 2 }}
{{- end }}

{{- define "firstcome.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Metadata of an object of all programs. */}}
{{- define "firstcome.common" -}}
name: {{ include "firstcome.fullname" . }}
labels:
  app.kubernetes.io/name: {{ include "firstcome.name" . }}
  app.kubernetes.io/instance: {{ .Release.Name }}
  {{- include "firstcome.labels" . | nindent 2 }}
{{- end }}

{{- define "firstcome.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "firstcome.fullname" .) "default") }}
{{- end }}

{{- define "firstcome.secret" -}}
{{ .Values.existingSecret | default (include "firstcome.fullname" .) }}
{{- end }}

{{/* The secret settings that a program reads. */}}
{{- define "firstcome.secretNames" -}}
{{- $everywhere := list "DATABASE_URL" "KAFKA_SIGNING_KEY" "KAFKA_SASL_PASSWORD" "KAFKA_PROPERTIES" }}
{{- $operators := list "REDIS_URL" "OPS_TOKEN" "OPS_VIEW_TOKEN" }}
{{- $own := dict "api" (list "JWT_SECRET" "JWT_JWKS_URL" "REDEEM_TOKEN") "reconciler" (list "SMTP_URL" "WEBHOOK_URLS" "WEBHOOK_SECRET") }}
{{- concat $everywhere (has .role (list "api" "reconciler") | ternary $operators list) (index $own .role | default list) | join "," }}
{{- end }}

{{/* The environment of a program's process. */}}
{{- define "firstcome.env" -}}
{{- $settings := merge (dict) (.env | default dict) (index .root.Values .role).env .root.Values.env (.defaults | default dict) }}
{{- $extra := dict }}
{{- range (index .root.Values .role).extraEnv }}
{{- $_ := set $extra .name true }}
{{- end }}
env:
{{- range $name, $value := $settings }}
{{- if and (ne (toString $value) "") (not (hasKey $extra $name)) }}
  - {name: {{ $name }}, value: {{ kindIs "float64" $value | ternary (int64 $value | toString) (toString $value) | quote }}}
{{- end }}
{{- end }}
{{- range include "firstcome.secretNames" . | splitList "," }}
{{- $is_made := or $.root.Values.existingSecret (index $.root.Values.secrets .) (and (eq . "KAFKA_SIGNING_KEY") (not $.root.Values.attach.file)) }}
{{- if and $is_made (not (index $settings .)) (not (hasKey $extra .)) }}
  - name: {{ . }}
    valueFrom: {secretKeyRef: {name: {{ include "firstcome.secret" $.root }}, key: {{ . }}, optional: true}}
{{- end }}
{{- end }}
{{- with (index .root.Values .role).extraEnv }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}

{{/* A value of a program, or else of all. */}}
{{- define "firstcome.own" -}}
{{- with index (index .root.Values .role) .field | default (index .root.Values .field) }}
{{ $.field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Common parts of every pod's specification. */}}
{{- define "firstcome.pod" -}}
automountServiceAccountToken: false
# A service called otel, say, would set OTEL_PORT.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  # Files of Secrets can be read.
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index .root.Values .role).priorityClassName | default .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range list "nodeSelector" "tolerations" "affinity" }}
{{- include "firstcome.own" (dict "root" $.root "role" $.role "field" .) }}
{{- end }}
{{- with concat (.volumes | default list) ((index .root.Values .role).extraVolumes | default .root.Values.extraVolumes | default list) }}
volumes:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Common parts of every container. */}}
{{- define "firstcome.container" -}}
{{- with .root.Values.image }}
image: "{{ .repository }}:{{ .tag | default $.root.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}"
imagePullPolicy: {{ .pullPolicy }}
{{- end }}
resources:
  {{- toYaml (index .root.Values .role).resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- with concat (.mounts | default list) ((index .root.Values .role).extraVolumeMounts | default .root.Values.extraVolumeMounts | default list) }}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A Deployment of a program; `container` is the rest of its container, `volumes` and `mounts` are its own. */}}
{{- define "firstcome.deployment" -}}
{{- $values := index .root.Values .role }}
{{- $own := dict }}
{{- range include "firstcome.secretNames" . | splitList "," }}
{{- $_ := set $own . (index $.root.Values.secrets .) }}
{{- end }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "firstcome.metadata" . | nindent 2 }}
spec:
  {{- if not (dig "autoscaling" "enabled" false $values) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "firstcome.selector" . | nindent 6 }}
  # A new process is ready before an old one stops.
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels:
        {{- include "firstcome.selector" . | nindent 8 }}
      annotations:
        # Restarts this program, and no other, after a change of its secrets.
        checksum/secrets: {{ $own | toJson | sha256sum }}
        {{- with .root.Values.attach.file }}
        checksum/file: {{ sha256sum . }}
        {{- end }}
        {{- with $values.podAnnotations | default .root.Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "firstcome.serviceAccount" .root }}
      # Longer than the process needs to finish its work.
      terminationGracePeriodSeconds: 30
      {{- include "firstcome.pod" . | nindent 6 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "firstcome.selector" . | nindent 14 }}
      containers:
        - name: {{ .role }}
          {{- include "firstcome.container" . | trim | nindent 10 }}
          {{- include "firstcome.env" . | trim | nindent 10 }}
          {{- .container | nindent 10 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "firstcome.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  # Pods that are not ready, because a store is unavailable, must not keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "firstcome.selector" . | nindent 6 }}
{{- with $values.autoscaling }}
{{- if .enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "firstcome.metadata" $ | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "firstcome.fullname" $.root }}-{{ $.role }}}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    {{- if .lag }}
    - type: Pods
      pods:
        metric: {name: firstcome_consumer_lag}
        target: {type: AverageValue, averageValue: {{ .lag | quote }}}
    {{- else }}
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .targetCPUUtilizationPercentage }}}
    {{- end }}
  behavior:
    # Each consumer that joins or leaves moves partitions, and a drop's crowd may come back.
    scaleDown: {stabilizationWindowSeconds: 600}
{{- end }}
{{- end }}
{{- end }}
