# The service on Google Cloud: a bucket with its rules, a service account with the least rights, secrets, Cloud Run, and the
# identity that the pipeline deploys with.
#
#   terraform init && terraform apply -var project=PROJECT -var image=docker.io/NAME/vectorpool@sha256:... -var github=OWNER/REPOSITORY

terraform {
  required_version = ">= 1.6"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.0"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.6"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_project_service" "needed" {
  for_each           = toset(["run.googleapis.com", "secretmanager.googleapis.com", "iamcredentials.googleapis.com", "sts.googleapis.com"])
  service            = each.value
  disable_on_destroy = false
}

# The bucket. Past states are objects of the service's own, so no versioning is needed for them; deleted objects can be
# brought back for a week by the platform.
resource "google_storage_bucket" "store" {
  name                        = var.bucket == "" ? "${var.project}-vectorpool" : var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  soft_delete_policy {
    retention_duration_seconds = 604800
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }
}

resource "google_service_account" "service" {
  account_id   = "vectorpool"
  display_name = "vectorpool"
}

resource "google_project_iam_custom_role" "store" {
  role_id     = "vectorpool"
  title       = "vectorpool"
  permissions = ["storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list"]
}

resource "google_storage_bucket_iam_member" "service" {
  bucket = google_storage_bucket.store.name
  role   = google_project_iam_custom_role.store.id
  member = google_service_account.service.member
}

# For upload-urls: the account signs them itself.
resource "google_service_account_iam_member" "signs" {
  service_account_id = google_service_account.service.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_service_account.service.member
}

resource "random_password" "token_secret" {
  length  = 64
  special = false
}

resource "google_secret_manager_secret" "token_secret" {
  secret_id = "vectorpool-token-secret"
  replication {
    auto {}
  }
  depends_on = [google_project_service.needed]
}

resource "google_secret_manager_secret_version" "token_secret" {
  secret      = google_secret_manager_secret.token_secret.id
  secret_data = random_password.token_secret.result
}

resource "google_secret_manager_secret_iam_member" "reads" {
  secret_id = google_secret_manager_secret.token_secret.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.service.member
}

resource "google_cloud_run_v2_service" "service" {
  name                = "vectorpool"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_ALL"
  deletion_protection = true

  template {
    service_account                  = google_service_account.service.email
    max_instance_request_concurrency = 80
    timeout                          = "900s"
    session_affinity                 = true
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"

    scaling {
      min_instance_count = var.min_instances
      max_instance_count = var.max_instances
    }

    containers {
      image = var.image

      ports {
        name           = "http1"
        container_port = 8000
      }

      resources {
        limits = {
          cpu    = "2"
          memory = "2Gi"
        }
        # The CPU stays on between requests.
        cpu_idle          = false
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = merge(local.settings, var.settings)
        content {
          name  = env.key
          value = env.value
        }
      }

      volume_mounts {
        name       = "secrets"
        mount_path = "/etc/vectorpool/secrets"
      }

      startup_probe {
        period_seconds    = 1
        timeout_seconds   = 1
        failure_threshold = 60
        http_get {
          path = "/health/ready"
          port = 8000
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 3
        failure_threshold = 3
        http_get {
          path = "/health/live"
          port = 8000
        }
      }
    }

    volumes {
      name = "secrets"
      secret {
        secret = google_secret_manager_secret.token_secret.secret_id
        items {
          version = "latest"
          path    = "token-secret"
        }
      }
    }
  }

  lifecycle {
    # The pipeline deploys images, and moves traffic.
    ignore_changes = [template[0].containers[0].image, template[0].revision, traffic, client, client_version]
  }

  depends_on = [google_storage_bucket_iam_member.service, google_secret_manager_secret_iam_member.reads]
}

# The numbers of deploy/cloudrun/service-gcs.yaml, and its reasons.
locals {
  settings = {
    VECTORPOOL_STORE                    = "gs://${google_storage_bucket.store.name}/vectorpool"
    VECTORPOOL_TOKEN_SECRET_FILE        = "/etc/vectorpool/secrets/token-secret"
    VECTORPOOL_MAX_BODY_BYTES           = "33554432"
    VECTORPOOL_TRUSTED_PROXIES          = "169.254.0.0/16"
    VECTORPOOL_SHARDS                   = "2"
    VECTORPOOL_OPEN_BYTES               = "201326592"
    VECTORPOOL_WARM_BYTES               = "100663296"
    VECTORPOOL_OPEN_SLOTS               = "50"
    VECTORPOOL_INDEX_ROWS_BYTES         = "67108864"
    VECTORPOOL_MAX_BODY_BYTES_UNDER_WAY = "134217728"
    VECTORPOOL_MEMORY_LIMIT_BYTES       = "1543503872"
    VECTORPOOL_EXTRACTION_PROCESSES     = "1"
    VECTORPOOL_EXTRACTION_MEMORY_BYTES  = "268435456"
    VECTORPOOL_DRAIN_S                  = "8"
  }
}

# What .github/workflows/deploy.yml deploys with: a run of that repository in its environment `production`, and no key.
resource "google_service_account" "deployer" {
  count        = var.github == "" ? 0 : 1
  account_id   = "vectorpool-deployer"
  display_name = "vectorpool's pipeline"
}

resource "google_iam_workload_identity_pool" "github" {
  count                     = var.github == "" ? 0 : 1
  workload_identity_pool_id = "github"
}

resource "google_iam_workload_identity_pool_provider" "github" {
  count                              = var.github == "" ? 0 : 1
  workload_identity_pool_id          = google_iam_workload_identity_pool.github[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "github"
  attribute_mapping = {
    "google.subject"       = "assertion.sub"
    "attribute.repository" = "assertion.repository"
  }
  attribute_condition = "assertion.repository == '${var.github}' && assertion.sub == 'repo:${var.github}:environment:production'"
  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

resource "google_service_account_iam_member" "github" {
  count              = var.github == "" ? 0 : 1
  service_account_id = google_service_account.deployer[0].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.github[0].name}/attribute.repository/${var.github}"
}

resource "google_cloud_run_v2_service_iam_member" "deployer" {
  for_each = var.github == "" ? toset([]) : toset(["roles/run.developer", "roles/run.invoker"])
  name     = google_cloud_run_v2_service.service.name
  location = var.region
  role     = each.value
  member   = google_service_account.deployer[0].member
}

resource "google_service_account_iam_member" "deployer_acts" {
  count              = var.github == "" ? 0 : 1
  service_account_id = google_service_account.service.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.deployer[0].member
}

# Backends that may call the service; each still needs a token of the service.
resource "google_cloud_run_v2_service_iam_member" "callers" {
  for_each = toset(var.callers)
  name     = google_cloud_run_v2_service.service.name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}
