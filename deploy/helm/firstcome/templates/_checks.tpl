{{/* Checks of required settings, with messages: the schema can describe the form of a value, but not which values belong together. */}}
{{- define "firstcome.check" -}}
{{- $v := .Values }}
{{- $settings := dict }}
{{- $secrets := dict }}
{{- range $role := list "api" "reconciler" }}
{{- $groups := include "firstcome.groups" (dict "role" $role) | splitList "," }}
{{- $_ := set $settings $role (include "firstcome.merged" (dict "of" $v.settings "groups" $groups) | fromYaml) }}
{{- $_ := set $secrets $role (include "firstcome.merged" (dict "of" $v.secrets "groups" $groups) | fromYaml) }}
{{- end }}
{{- if not (index $settings.api "KAFKA_BROKERS") }}
{{- fail "set settings.everywhere.KAFKA_BROKERS, as host:port, several by commas" }}
{{- end }}
{{- if not (or $v.existingSecrets.everywhere (index $secrets.api "DATABASE_URL")) }}
{{- fail "set secrets.everywhere.DATABASE_URL (mysql://user:password@host:3306/database), or existingSecrets.everywhere to a Secret that has it" }}
{{- end }}
{{- if not (or $v.existingSecrets.apiAndReconciler (and (index $secrets.api "REDIS_URL") (index $secrets.api "OPS_TOKEN"))) }}
{{- fail "set secrets.apiAndReconciler.REDIS_URL and .OPS_TOKEN (openssl rand -hex 32), or existingSecrets.apiAndReconciler to a Secret that has both" }}
{{- end }}
{{- if and (include "firstcome.makesKey" .) (not (lookup "v1" "Namespace" "" "default")) }}
{{- fail "set secrets.everywhere.KAFKA_SIGNING_KEY (openssl rand -hex 32): it signs the messages of claims. Helm makes one only while it can read the cluster; without it, each rendering would have another" }}
{{- end }}
{{- $how := index $settings.api "USER_AUTH" }}
{{- if not $how }}
{{- fail "set settings.api.USER_AUTH to trusted-header or jwt" }}
{{- end }}
{{- if and (eq $how "trusted-header") (not $v.networkPolicy.enabled) }}
{{- fail "set networkPolicy.enabled, or settings.api.USER_AUTH to jwt: without it every pod that reaches the API could claim for anybody" }}
{{- end }}
{{- if and (eq $how "jwt") (not $v.existingSecrets.api) }}
{{- range list "JWT_ALGORITHM" "JWT_ISSUER" "JWT_AUDIENCE" }}
{{- if not (or (index $settings.api .) (index $secrets.api .)) }}
{{- fail (printf "set settings.api.%s: settings.api.USER_AUTH is jwt, and without it the API does not start" .) }}
{{- end }}
{{- end }}
{{- $keys := false }}
{{- range list "JWT_JWKS_URL" "JWT_SECRET" }}
{{- $keys = or $keys (index $settings.api .) (index $secrets.api .) }}
{{- end }}
{{- if not $keys }}
{{- fail "set secrets.api.JWT_JWKS_URL, or another source of the keys of tokens: settings.api.USER_AUTH is jwt" }}
{{- end }}
{{- end }}
{{- with $v.consumer.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail "set consumer.autoscaling.maxReplicas to at least minReplicas" }}
{{- end }}
{{- end }}
{{- range list "automountServiceAccountToken" "containers" "enableServiceLinks" "restartPolicy" "securityContext" "terminationGracePeriodSeconds" "topologySpreadConstraints" "volumes" }}
{{- if hasKey $v.pod . }}
{{- fail (printf "take pod.%s away: the chart sets it itself" .) }}
{{- end }}
{{- end }}
{{- if or $v.existingSecrets.reconciler (index $secrets.reconciler "SMTP_URL") }}
{{- range list "PUBLIC_URL" "API_PUBLIC_URL" "ALERT_FROM" "ALERT_TO" }}
{{- if not (index $settings.reconciler .) }}
{{- fail (printf "set settings.reconciler.%s: mails need it" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $one := $v.ingress }}
{{- if and $one.enabled (not $one.host) }}
{{- fail (printf "set ingress.%s.host" $name) }}
{{- end }}
{{- end }}
{{- end }}
