{{/* Checks of required settings, with messages: the schema can describe the form of a value, but not which values belong together. */}}
{{- define "firstcome.check" -}}
{{- $v := .Values }}
{{- if $v.attach.file }}
{{- if not (or $v.existingSecret $v.secrets.DATABASE_URL) }}
{{- fail "set secrets.DATABASE_URL: a database for the records of attach, or existingSecret to a Secret that has it" }}
{{- end }}
{{- else }}
{{- include "firstcome.checkWhole" . }}
{{- end }}
{{- range $name, $one := $v.ingress }}
{{- if and $one.enabled (not $one.host) }}
{{- fail (printf "set ingress.%s.host" $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "firstcome.checkWhole" -}}
{{- $v := .Values }}
{{- $api := merge (dict) $v.api.env $v.env }}
{{- $reconciler := merge (dict) $v.reconciler.env $v.env }}
{{- if not (index $api "KAFKA_BROKERS") }}
{{- fail "set env.KAFKA_BROKERS, as host:port, several by commas" }}
{{- end }}
{{- if not $v.existingSecret }}
{{- range list "DATABASE_URL" "REDIS_URL" "OPS_TOKEN" }}
{{- if not (index $v.secrets .) }}
{{- fail (printf "set secrets.%s, or existingSecret to a Secret that has it" .) }}
{{- end }}
{{- end }}
{{- if and (not $v.secrets.KAFKA_SIGNING_KEY) (not (lookup "v1" "Namespace" "" "default")) }}
{{- fail "set secrets.KAFKA_SIGNING_KEY (openssl rand -hex 32): it signs the messages of claims. Helm makes one only while it can read the cluster; without it, each rendering would have another" }}
{{- end }}
{{- end }}
{{- $consumer := merge (dict) $v.consumer.env $v.env }}
{{- if and (index $consumer "ROWS_PER_SECOND") $v.consumer.autoscaling.enabled }}
{{- fail "ROWS_PER_SECOND and consumer.autoscaling exclude each other: messages wait for the pace, and more consumers do not read them any sooner" }}
{{- end }}
{{- if eq (index $api "USER_AUTH") "jwt" }}
{{- range list "JWT_ALGORITHM" "JWT_ISSUER" "JWT_AUDIENCE" }}
{{- if not (index $api .) }}
{{- fail (printf "set env.%s: USER_AUTH is jwt, and without it the API does not start" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if or $v.existingSecret $v.secrets.SMTP_URL }}
{{- range list "PUBLIC_URL" "API_PUBLIC_URL" "ALERT_FROM" "ALERT_TO" }}
{{- if not (index $reconciler .) }}
{{- fail (printf "set reconciler.env.%s: mails need it" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
