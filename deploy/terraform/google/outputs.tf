output "url" {
  description = "The service"
  value       = google_cloud_run_v2_service.service.uri
}

output "bucket" {
  description = "The bucket"
  value       = google_storage_bucket.store.name
}

output "workload_identity_provider" {
  description = "The secret GCP_WORKLOAD_IDENTITY_PROVIDER of the pipeline"
  value       = one(google_iam_workload_identity_pool_provider.github[*].name)
}

output "deployer" {
  description = "The secret GCP_SERVICE_ACCOUNT of the pipeline"
  value       = one(google_service_account.deployer[*].email)
}
