//! What the server says about itself, its SQL and its types.

use super::statements::PREPARED;
use super::status;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Nullable, Searchable, SqlInfo, SqlNullOrdering, SqlSupportedCaseSensitivity,
    SqlSupportedTransaction, XdbcDataType,
};
use std::sync::Arc;
use tonic::Status;

/// What the server is and can do.
pub(super) fn sql_info() -> Result<SqlInfoData, Status> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Nightshift");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    info.append(SqlInfo::FlightSqlServerReadOnly, false);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let timeout = i32::try_from(PREPARED.as_millis()).unwrap_or(i32::MAX);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, timeout);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, true);
    let lower = SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32;
    info.append(SqlInfo::SqlIdentifierCase, lower);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    info.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    info.append(SqlInfo::SqlBatchUpdatesSupported, true);
    info.append(SqlInfo::SqlSavepointsSupported, false);
    info.append(SqlInfo::SqlNamedParametersSupported, false);
    info.build().map_err(status::internal)
}

/// The types of columns.
pub(super) fn types() -> Result<XdbcTypeInfoData, Status> {
    let mut types = XdbcTypeInfoDataBuilder::new();
    let quoted = Some("'".to_string());
    let number = |name: &str, kind, bits| XdbcTypeInfo {
        type_name: name.to_string(),
        data_type: kind,
        sql_data_type: kind,
        column_size: Some(bits),
        num_prec_radix: Some(2),
        unsigned_attribute: Some(false),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        ..Default::default()
    };
    let other = |name: &str, kind, size| XdbcTypeInfo {
        num_prec_radix: None,
        unsigned_attribute: None,
        column_size: size,
        ..number(name, kind, 0)
    };
    let text = |name: &str, kind, size| XdbcTypeInfo {
        literal_prefix: quoted.clone(),
        literal_suffix: quoted.clone(),
        case_sensitive: true,
        ..other(name, kind, size)
    };
    types.append(other("BOOLEAN", XdbcDataType::XdbcBit, Some(1)));
    types.append(number("TINYINT", XdbcDataType::XdbcTinyint, 8));
    types.append(number("SMALLINT", XdbcDataType::XdbcSmallint, 16));
    types.append(number("INTEGER", XdbcDataType::XdbcInteger, 32));
    types.append(number("BIGINT", XdbcDataType::XdbcBigint, 64));
    types.append(number("REAL", XdbcDataType::XdbcReal, 24));
    types.append(number("DOUBLE", XdbcDataType::XdbcDouble, 53));
    types.append(XdbcTypeInfo {
        num_prec_radix: Some(10),
        create_params: Some(vec!["precision".to_string(), "scale".to_string()]),
        minimum_scale: Some(0),
        maximum_scale: Some(38),
        ..number("DECIMAL", XdbcDataType::XdbcDecimal, 38)
    });
    types.append(text("VARCHAR", XdbcDataType::XdbcVarchar, None));
    types.append(other("BINARY", XdbcDataType::XdbcVarbinary, None));
    types.append(text("DATE", XdbcDataType::XdbcDate, Some(10)));
    types.append(text("TIMESTAMP", XdbcDataType::XdbcTimestamp, Some(29)));
    types.build().map_err(status::internal)
}

/// The columns of a list of primary keys, of which there are none.
pub(super) fn primary_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// The columns of a list of foreign keys, of which there are none.
pub(super) fn foreign_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}
