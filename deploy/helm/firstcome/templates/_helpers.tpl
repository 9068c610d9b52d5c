{{/* The labels by which a program's pods are found: they must not change between versions. Two releases in one namespace differ by name. */}}
{{- define "firstcome.selector" -}}
{app.kubernetes.io/name: {{ .root.Release.Name }}, app.kubernetes.io/component: {{ .role }}}
{{- end }}

{{/* Metadata of an object: `name` with the release's name in front. */}}
{{- define "firstcome.metadata" -}}
name: {{ .root.Release.Name }}-{{ .name | default .role }}
labels: {{ include "firstcome.selector" . }}
{{- end }}

{{- define "firstcome.image" -}}
{{- with .Values.image -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* The groups of settings of a program; if two of them have a setting of the same name, the later one wins. */}}
{{- define "firstcome.groups" -}}
everywhere{{ if has .role (list "api" "reconciler") }},apiAndReconciler{{ end }},{{ .role }}
{{- end }}

{{/* The settings or secrets of a list of groups as one map, without those that are not set. */}}
{{- define "firstcome.merged" -}}
{{- $all := dict }}
{{- range .groups }}
{{- range $name, $value := index $.of . }}
{{- if ne (toString $value) "" }}
{{- $_ := set $all $name (kindIs "float64" $value | ternary (int64 $value | toString) (toString $value)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{/* Not empty if nobody gives the key that signs messages, so that the chart makes one. */}}
{{- define "firstcome.makesKey" -}}
{{- $given := include "firstcome.merged" (dict "of" .Values.secrets "groups" (list "everywhere")) | fromYaml }}
{{- if not (or .Values.existingSecrets.everywhere (index $given "KAFKA_SIGNING_KEY")) }}yes{{ end }}
{{- end }}

{{/* The environment of a program's process. */}}
{{- define "firstcome.env" -}}
envFrom:
{{- range include "firstcome.groups" . | splitList "," }}
  - configMapRef: {name: {{ $.root.Release.Name }}-{{ kebabcase . }}}
  - secretRef: {name: {{ index $.root.Values.existingSecrets . | default (printf "%s-%s" $.root.Release.Name (kebabcase .)) }}}
{{- end }}
{{- if include "firstcome.makesKey" .root }}
  - secretRef: {name: {{ .root.Release.Name }}-signing-key}
{{- end }}
{{- end }}

{{/* Common parts of every pod. */}}
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
{{- with .root.Values.pod }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Common parts of every container. */}}
{{- define "firstcome.container" -}}
image: {{ include "firstcome.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
resources:
  {{- toYaml (index .root.Values .role).resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* The mounts of files, and their volumes. */}}
{{- define "firstcome.mounts" -}}
{{- $files := .root.Values.files }}
{{- if or $files.everywhere (index $files .role) }}
volumeMounts:
  {{- if $files.everywhere }}
  - {name: files-everywhere, mountPath: /etc/firstcome/everywhere, readOnly: true}
  {{- end }}
  {{- if index $files .role }}
  - {name: files-own, mountPath: /etc/firstcome/own, readOnly: true}
  {{- end }}
{{- end }}
{{- end }}

{{- define "firstcome.volumes" -}}
{{- $files := .root.Values.files }}
{{- if or $files.everywhere (index $files .role) }}
volumes:
  {{- with $files.everywhere }}
  - name: files-everywhere
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
  {{- with index $files .role }}
  - name: files-own
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
{{- end }}
{{- end }}

{{/* A Deployment of a program; `container` is the rest of its container. */}}
{{- define "firstcome.deployment" -}}
{{- $values := index .root.Values .role }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "firstcome.metadata" . | nindent 2 }}
spec:
  {{- if not (dig "autoscaling" "enabled" false $values) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  selector:
    matchLabels: {{ include "firstcome.selector" . }}
  # A new process is ready before an old one stops.
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels: {{ include "firstcome.selector" . }}
      annotations: {checksum/settings: {{ list .root.Values.settings .root.Values.secrets | toJson | sha256sum }}}
    spec:
      # Longer than the process needs to finish its work.
      terminationGracePeriodSeconds: 30
      {{- include "firstcome.pod" . | nindent 6 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{ include "firstcome.selector" . }}
      containers:
        - name: {{ .role }}
          {{- include "firstcome.container" . | nindent 10 }}
          {{- include "firstcome.env" . | nindent 10 }}
          {{- .container | nindent 10 }}
          {{- include "firstcome.mounts" . | nindent 10 }}
      {{- include "firstcome.volumes" . | nindent 6 }}
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
    matchLabels: {{ include "firstcome.selector" . }}
{{- end }}
