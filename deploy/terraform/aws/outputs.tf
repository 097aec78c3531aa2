output "address" {
  description = "The balancer's name; point the certificate's name at it"
  value       = aws_lb.here.dns_name
}

output "bucket" {
  description = "The bucket"
  value       = aws_s3_bucket.store.bucket
}

output "token_secret" {
  description = "The secret that signs tokens, for `vectorpool token`"
  value       = aws_secretsmanager_secret.token_secret.arn
}
